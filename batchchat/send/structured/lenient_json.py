"""Finds the JSON in a model's text: as it stands, in a fence, amid prose, or mended where it is cut or nearly JSON.

Libraries that mend JSON take time in the square of a text's length or worse, on texts that a model may well write;
meanwhile no other row of the run would go on.
"""

import json
import math
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, NoReturn

MAX_MENDED_CHARACTERS = 100_000
"""Characters of a text that are mended, some 30,000 tokens; of a longer one, only what is JSON is read."""
MAX_VALUES = 8
"""Values of each kind, and fences, that are looked at: the last ones of a text."""
MAX_READ = 5_000
MAX_BROKEN = 100
"""Values amid prose that are read, and how many of them may be broken."""
MAX_DEPTH = 200

_SURROGATE = re.compile("[\ud800-\udfff]")
# No pattern here is possessive or atomic: early releases of Python 3.11 match those wrongly.
_OPENING = re.compile(
    r"""\{\s*(?:["'},#]|/[/*]|[^\s{}\[\],:"'/#]+\s*:)"""
    r"""|\[\s*(?:["'{\[\],\d-]|/[/*]|(?:true|false|null|True|False|None)\b|\Z)"""
)
"""How an object or a list begins, and hardly anything in prose, code or LaTeX that only has brackets."""
_FENCE_LANGUAGE = re.compile(r"\A[A-Za-z0-9]+(?=[\s{\[])")
_ENDING = r"(?=\s*(?:[,:}\]]|/[/*]|\Z)|[ \t]*\r?\n)"
"""What follows a quote that ends a string; another quote was meant to stand in it."""


def _inside(quote: str) -> str:
    """Return the pattern of a string up to its end; each character matches in one way only, so this is linear."""
    plain = rf"[^{quote}\\]*"
    return rf"{quote}{plain}(?:(?:\\.|{quote}(?!{_ENDING})){plain})*"


_TOKEN = re.compile(
    r"(?P<mark>[{}\[\],:])"
    rf"""|(?:{_inside('"')}|{_inside("'")})(?:(?P<string>["']{_ENDING})|(?P<cut>\\?\Z))"""
    r"|(?P<space>\s+|//[^\n]*|#[^\n]*|/\*[^*]*(?:\*(?!/)[^*]*)*(?:\*/)?)"
    r"""|(?P<word>[^\s{}\[\],:"']+)""",
    re.DOTALL,
)
_ESCAPE = re.compile(r'\\u[0-9a-fA-F]{4}|\\u[0-9a-fA-F]{0,3}\Z|\\.|\\\Z|"', re.DOTALL)
_CLOSERS = {"{": "}", "[": "]"}
_MARKS = frozenset("{[,:")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True, slots=True)
class FoundJson:
    """A JSON value, and its compact text."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text may mean, the likeliest first: the values that stand whole in it, and those that had to be mended."""

    whole: list[FoundJson]
    mended: list[FoundJson]


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(word)


_STRICT = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
_LENIENT = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant, strict=False)
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def read(text: str) -> Reading:
    """Return the JSON in a text: the text itself, or what is fenced in it and then what stands amid prose.

    A model that gives several values has the one that it means at the end. What is mended has its objects and lists
    closed, and is cleared of what JSON has not. This takes time in proportion to the text, whatever stands in it: a run
    has thousands of other rows to see to.
    """
    itself = _loaded(text)
    if itself is not None:
        return Reading([itself], [])
    prose = _after_thought(text)
    readings, mended_characters = [], 0
    for candidate in [*_fenced(prose), prose]:
        mended_characters += len(candidate)
        readings.append(_values(candidate, is_mended=mended_characters <= MAX_MENDED_CHARACTERS))
    return Reading(
        [found for reading in readings for found in reading.whole],
        [found for reading in readings for found in reading.mended],
    )


def _values(text: str, *, is_mended: bool) -> Reading:
    """Return the objects and lists that follow each other in a text, the last first; or the one value that it is."""
    whole: deque[Any] = deque(maxlen=MAX_VALUES)
    closed: deque[str] = deque(maxlen=MAX_VALUES)
    end, broken_count = 0, 0
    for _ in range(MAX_READ):
        opening = _OPENING.search(text, end)
        if opening is None:
            break
        try:
            value, end = _STRICT.raw_decode(text, opening.start())
            whole.append(value)
        except (ValueError, RecursionError):
            broken_count += 1
            if not is_mended or broken_count > MAX_BROKEN:
                break
            guess, end = _closed(text, opening.start())
            closed.append(guess)
    if end == 0 and not broken_count:
        itself = _loaded(text)
        return Reading([itself] if itself else [], [])
    mended = [found for guess in reversed(closed) if (found := _loaded(guess, _LENIENT)) is not None]
    return Reading(
        [found for value in reversed(whole) if (found := _found(value)) is not None],
        [found for found in mended if found.value],  # an empty one is what remains of prose in brackets
    )


def _after_thought(text: str) -> str:
    """Return a text without the thought before it; a thought that does not end is the whole text."""
    start = text.lstrip()[:7]
    if start == "<think>" or ("</think>" in text and start[:1] not in ("{", "[", '"', "`")):
        return text.partition("</think>")[2]
    return text


def _fenced(text: str) -> list[str]:
    """Return what stands between fences, the last first, which may be open; fences within JSON are of its strings."""
    if text.lstrip()[:1] in ("{", "["):
        return []
    blocks = text.split("```")[1::2][-MAX_VALUES:]
    return [_FENCE_LANGUAGE.sub("", block) for block in reversed(blocks)]


def _loaded(text: str, decoder: json.JSONDecoder = _STRICT) -> FoundJson | None:
    """Return a text as JSON, None when it is none."""
    try:
        return _found(decoder.decode(text.strip().removeprefix("\ufeff").strip()))
    except (ValueError, RecursionError):
        return None


def _found(value: Any) -> FoundJson | None:
    """Return a value with its text, None for one that no table can hold: nested without measure.

    Lone surrogates become U+FFFD.
    """
    try:
        compact = _COMPACT.encode(value)
    except (ValueError, RecursionError):
        return None
    if compact.count("[") + compact.count("{") > MAX_DEPTH and _is_deep(value):
        return None
    storable = _SURROGATE.sub("\ufffd", compact)
    return FoundJson(value if storable == compact else json.loads(storable), storable)


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth < MAX_DEPTH:
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [part for part in level if isinstance(part, (dict, list))]
        depth += 1
    return bool(level)


def _closed(text: str, start: int) -> tuple[str, int]:
    """Return the object or list that begins at `start`, as near to JSON as can be guessed, and where it ends."""
    pieces: list[str] = []
    closers: list[str] = []
    open_counts = {"}": 0, "]": 0}
    for match in _TOKEN.finditer(text, start):
        token, kind = match[0], match.lastgroup
        if token in _CLOSERS:
            _add_value(pieces, token)
            closers.append(_CLOSERS[token])
            open_counts[_CLOSERS[token]] += 1
            if len(closers) > MAX_DEPTH:
                return "", len(text)
        elif open_counts.get(token):
            closer = ""
            while closer != token:
                closer = _close(pieces, closers)
                open_counts[closer] -= 1
            if not closers:
                return "".join(pieces), match.end()
        elif kind == "mark":
            _add_mark(pieces, token)
        elif kind != "space":
            _add_value(pieces, _scalar(token, kind, is_last=match.end() == len(text)))
    while closers:
        _close(pieces, closers)
    return "".join(pieces), len(text)


def _add_value(pieces: list[str], piece: str | None) -> None:
    if piece is None:
        return
    if pieces and pieces[-1] not in _MARKS:
        pieces.append(",")
    pieces.append(piece)


def _add_mark(pieces: list[str], mark: str) -> None:
    """Add a comma or a colon, where it has something before it; a colon makes a name of a word."""
    if mark not in _MARKS or pieces[-1] in _MARKS:
        return
    if mark == ":" and pieces[-1][0] not in ('"', "}", "]"):
        pieces[-1] = json.dumps(pieces[-1])
    pieces.append(mark)


def _close(pieces: list[str], closers: list[str]) -> str:
    """Close the innermost object or list, without a comma or a name that nothing follows; return its closer."""
    closer = closers.pop()
    if pieces[-1] == ":":
        del pieces[-2:]
    elif closer == "}" and pieces[-1] not in _MARKS and pieces[-2] in ("{", ","):
        del pieces[-1]
    if pieces[-1] == ",":
        del pieces[-1]
    pieces.append(closer)
    return closer


def _scalar(token: str, kind: str | None, *, is_last: bool) -> str | None:
    """Return a string or a word as JSON; None for a word that the end of the text may have cut."""
    if kind != "word":
        inner = token[1:] if kind == "cut" else token[1:-1]
        return f'"{_ESCAPE.sub(_escaped, inner)}"'
    word = _PYTHON_WORDS.get(token, token)
    return None if is_last and word not in _PYTHON_WORDS.values() else word


def _escaped(match: re.Match[str]) -> str:
    """Return an escape, or a quote, as JSON has it."""
    found = match.group()
    if found == '"':
        return '\\"'
    if len(found) == 6 or found[1:] in ('"', "\\", "/", "b", "f", "n", "r", "t"):
        return found
    if len(found) == 1 or found[1] == "u":
        return ""
    return found[1] if found[1] == "'" else f"\\\\{found[1]}"
