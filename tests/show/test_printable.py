"""What is printed cannot steer the terminal, and ordinary text is printed as it is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.show.printable import indented, on_one_line, one_line, printable, shortened

BELL, ESC = "\x07", "\x1b"
DIRECTION = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

# Mostly what sequences are made of, so that whole and broken ones come about.
hostile = st.text(st.sampled_from(f"{ESC}{BELL}\x9b\x9d\x90\x9c[]PX^_\\;?0189mHJ \r\n\t\0\x7fa{DIRECTION}"))
any_text = st.text(st.characters()) | hostile  # surrogates too


def controls(text: str) -> list[str]:
    """Return the characters of a text that a terminal would act upon."""
    return [
        character
        for character in text
        if (unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t") or character in DIRECTION
    ]


@pytest.mark.slow
@given(text=any_text)
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    """Neither ESC, nor C0 or C1 controls, nor marks of direction come out, and the rest can be encoded."""
    shown = printable(text)
    assert controls(shown) == []
    assert ESC not in shown
    assert not any("\x80" <= character <= "\x9f" for character in shown)
    shown.encode()


@given(text=any_text)
def test_printable_text_stays_as_it_is(text: str) -> None:
    """Making text printable twice changes nothing more."""
    assert printable(printable(text)) == printable(text)


@given(text=st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=DIRECTION)))
def test_text_without_controls_is_kept(text: str) -> None:
    """Letters of all languages, emoji and their joiners are shown as they came."""
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("a\tb\nc\n", "a\tb\nc\n"),
        ("a\r\nb", "a\nb"),
        ("harmless\rovert", "harmlessovert"),
        (f"{ESC}[31mred{ESC}[0m", "red"),
        (f"{ESC}[38;2;1;2;3mred{ESC}[m", "red"),
        (f"{ESC}[2J{ESC}[1;1Hgone", "gone"),
        (f"{ESC}[?1049hscreen", "screen"),
        ("\x9b31mred\x9b0m", "red"),
        (f"{ESC}]0;title{BELL}text", "text"),
        (f"{ESC}]0;title{ESC}\\text", "text"),
        (f"{ESC}]52;c;cm0gLXJm{BELL}clipboard", "clipboard"),
        (f"{ESC}]8;;https://evil.example{ESC}\\link{ESC}]8;;{ESC}\\", "link"),
        (f"{ESC}P1$r0m{ESC}\\device", "device"),
        (f"{ESC}_command{ESC}\\text", "text"),
        (f"{ESC}ctext", "text"),
        (f"{ESC}(Btext", "text"),
        (f"{ESC}", ""),
        (f"text{ESC}[", "text"),
        ("a\0b\x08c\x7fd\x85e", "abcde"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("\u2066isolated\u2069", "isolated"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("日本 👩‍👩‍👧 é", "日本 👩‍👩‍👧 é"),
        ("\u061ca", "a"),
    ],
)
def test_sequences_are_taken_out_whole(text: str, shown: str) -> None:
    """A control sequence goes with its parameters; what stands around it stays."""
    assert printable(text) == shown


@pytest.mark.slow
@pytest.mark.parametrize("part", [ESC, f"{ESC}]", f"{ESC}P", f"{ESC}[0", f"{ESC}[ ", "\x9b0 ", "0", f"{ESC}]a\x9c"])
def test_hostile_megabyte_takes_linear_time(part: str) -> None:
    """A reply made of unfinished sequences does not stop the program (the test's time limit is the assertion)."""
    text = ESC + part * (1_000_000 // len(part))
    assert controls(printable(text)) == []


@given(text=any_text, width=st.integers(1, 50))
def test_one_line_fits_its_width(text: str, width: int) -> None:
    """The result is one line, printable, and at most so many characters long."""
    line = one_line(text, width)
    assert len(line) <= width
    assert line.splitlines() in ([], [line])
    assert controls(line) == []


@given(text=any_text)
def test_name_stays_on_its_line(text: str) -> None:
    """Whatever a file is called, it makes one line, without tabs, and nothing else of it is lost."""
    line = on_one_line(text)
    assert line.splitlines() in ([], [line])
    assert controls(line) == []
    assert line == "".join(" " if c in "\n\t\u2028\u2029" else c for c in printable(text))


def test_spaces_of_a_name_are_kept() -> None:
    """A name is shown so that it can be typed again."""
    assert on_one_line(" a  b.csv") == " a  b.csv"
    assert on_one_line("a\nbatchchat: fine\tx\u2028y") == "a batchchat: fine x y"


@given(text=any_text)
def test_only_the_first_line_is_not_indented(text: str) -> None:
    """A provider's words of many lines have none that begins like one of ours."""
    first, *others = indented(text).split("\n")
    assert all(line.startswith("  ") for line in others)
    assert controls("".join([first, *others])) == []


@pytest.mark.parametrize(
    ("text", "width", "line"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("  a \n\t b  ", 9, "a b"),
        (f"{ESC}[31mabc{ESC}[0m", 3, "abc"),
        ("\n", 5, ""),
    ],
)
def test_one_line_is_cut_with_an_ellipsis(text: str, width: int, line: str) -> None:
    """Spaces and line ends become one space; only what does not fit is cut, and the cut is seen."""
    assert one_line(text, width) == line


def test_long_data_url_is_cut_and_a_short_one_is_not() -> None:
    """A terminal is not filled with the base64 of a picture; all else stays."""
    url = "data:image/png;base64," + "A" * 5_000
    assert shortened(f'{{"url":"{url}","b":1}}') == f'{{"url":"{url[:65]}… (5,022 characters)","b":1}}'
    assert shortened('{"url":"data:image/png;base64,AAAA"}') == '{"url":"data:image/png;base64,AAAA"}'
