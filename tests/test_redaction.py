"""The key goes, whichever way it is spelled, and nothing else does."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.send.redaction import SHORTEST_SECRET, Redaction, is_secret

KEY = "sk-canary+a/b_c.0123-Wxyz~9"
REDACTED = b"[redacted]"


def percent(key: str) -> str:
    """Return a key with every character escaped as in a URL."""
    return "".join(f"%{ord(character):02x}" for character in key)


def unicode(key: str, digits: str = "%04x") -> str:
    """Return a key with every character escaped as in JSON."""
    return "".join("\\u" + digits % ord(character) for character in key)


SPELLINGS = {
    "plain": KEY,
    "all of it escaped for JSON": unicode(KEY),
    "in upper-case digits": unicode(KEY, "%04X"),
    "one escaped for JSON": KEY.replace("-", "\\u002d"),
    "JSON in JSON": KEY.replace("-", "\\\\\\u002D"),
    "slash escaped": KEY.replace("/", "\\/"),
    "slash escaped twice": KEY.replace("/", "\\\\\\/"),
    "URL": quote(KEY, safe=""),
    "URL in lower-case digits": quote(KEY, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "URL, all of it": percent(KEY),
    "URL twice": quote(quote(KEY, safe=""), safe=""),
    "mixed": KEY.replace("-", "%2D").replace("+", "\\u002b"),
}


def redacted(text: str, key: str = KEY) -> str:
    """Return a text without the key."""
    return Redaction(key).content(text.encode()).decode()


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=list(SPELLINGS))
def test_every_spelling_goes(spelled: str) -> None:
    """As it stands, and with any of its characters escaped for JSON or a URL, in hex digits of either case."""
    assert redacted(f"a {spelled} b {spelled}{spelled}") == "a [redacted] b [redacted][redacted]"
    assert Redaction(KEY).text(f"é{spelled}") == "é[redacted]"


@pytest.mark.parametrize("before", ["", "B", "Be", "Bearer ", "user:", "key=", '{"authorization": "Bearer '])
@pytest.mark.parametrize("after", ["", "x", "xy", "xyz", "\n", '"}'])
@pytest.mark.parametrize("alphabet", ["standard", "url", "escaped for JSON", "escaped for a URL"])
def test_base64_goes_wherever_the_key_stands_in_it(before: str, after: str, alphabet: str) -> None:
    """Whatever is coded before and behind it, no part of the key can be had from what is left."""
    code = base64.b64encode(f"{before}{KEY}{after}".encode()).decode()
    code = {
        "standard": code,
        "url": code.replace("+", "-").replace("/", "_"),
        "escaped for JSON": code.replace("/", "\\/"),
        "escaped for a URL": quote(code, safe=""),
    }[alphabet]
    left = redacted(f'"{code}"')
    assert left.count("[redacted]") == 1
    kept = left.removeprefix('"').partition("[redacted]")[0]
    assert base64.b64decode(kept[: len(kept) // 4 * 4]).decode() in before
    assert len(left) <= len("[redacted]") + (len(before) + len(after)) * 4 / 3 + 20


def test_cut_off_key_goes_from_the_end() -> None:
    """A body that ended in the midst of the key does not keep the most of it."""
    assert redacted(f"Bearer {KEY[:-1]}") == "Bearer [redacted]"
    assert redacted(f"Bearer {KEY[: len(KEY) // 2]}") == "Bearer [redacted]"
    assert redacted(f"Bearer {KEY[: SHORTEST_SECRET - 1]}") == f"Bearer {KEY[: SHORTEST_SECRET - 1]}"


@given(st.binary(), st.binary(), st.sampled_from(list(SPELLINGS.values())))
def test_surroundings_stay_as_they_are(before: bytes, after: bytes, spelled: str) -> None:
    """Of what stands around the key, nothing is lost, whatever bytes these are."""
    content = Redaction(KEY).content(b"<" + before + b"<" + spelled.encode() + b">" + after + b">")
    assert content == b"<" + before + b"<" + REDACTED + b">" + after + b">"


@given(st.binary() | st.text().map(str.encode))
def test_content_without_the_key_is_the_same(content: bytes) -> None:
    """What does not have the key is handed back as it is."""
    assert Redaction(KEY).content(content) is content


@given(st.text(st.sampled_from(KEY[:6] + "%\\u002d"), max_size=40), st.text(st.characters(), max_size=9))
def test_no_key_is_left_amid_halves_of_it(before: str, after: str) -> None:
    """Beginnings of the key, and of its escapes, before it do not hide it."""
    left = Redaction(KEY).text(f"{before}{KEY}{after}")
    assert KEY not in left
    assert Redaction(KEY).text(left) == left


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=80).filter(is_secret))
def test_any_key_goes(key: str) -> None:
    """Keys may have any printable characters, also those that mean something in patterns."""
    spellings = (key, unicode(key), percent(key), json.dumps(key)[1:-1], quote(key))
    text = " ".join(spellings) + " " + base64.b64encode(f"Bearer {key}".encode()).decode()
    assert key not in redacted(text, key).replace("[redacted]", "\0")


WORDS = [
    *(
        "EMPTY",
        "x",
        "0",
        "sk-1234",
        "placeholder",
        "Placeholder",
        "PLACEHOLDER",
        "assistant",
        "not-needed",
        "lm-studio",
    ),
    *("sk-no-key-required", "12345678", "1.2345678", "sk-xxxxxxxxxxxxxxxxxxxxxxxxx", "sk-0000-0000-0000", "----------"),
]
SECRETS = ["sk-12345", "token-abc123", "correctHorse", "abcdefghijklmnopqrst", "SFMyNTY.g2gDbQ", "c0ffee00-12"]


@pytest.mark.parametrize("key", WORDS)
def test_reply_keeps_a_key_that_may_be_a_word(key: str) -> None:
    """Servers that check no key are given any word, which models say too, and which JSON is made of."""
    reply = f'{{"role":"{key}","created":1{key}5,"content":"A {key}, {unicode(key)} {percent(key)} {key}'.encode()
    assert Redaction(key).content(reply) is reply


@pytest.mark.parametrize("key", SECRETS)
def test_key_that_is_no_word_goes_from_replies(key: str) -> None:
    """A digit, a capital inside, or twenty characters: no model says that by chance."""
    assert redacted(f"my{key}s {unicode(key)}", key) == "my[redacted]s [redacted]"
    assert redacted(f"{key.swapcase()}", key) == key.swapcase()


@pytest.mark.parametrize("key", [key for key in WORDS if len(key) >= 4])
def test_message_and_header_have_no_key_that_may_be_a_word(key: str) -> None:
    """Who repeats the key in a failure means the key; longer words with it in them stay."""
    text = f"Bearer {key}: key={key}, '{key}'. x{key}, {key}-2, {key}s"
    shown = f"Bearer [redacted]: key=[redacted], '[redacted]'. x{key}, {key}-2, {key}s"
    assert Redaction(key).text(text) == shown
    assert f"{key!r}" not in Redaction(key).message(f"the key {key!r} is wrong")


@pytest.mark.parametrize("key", [None, "", "x", "0", "abc"])
def test_key_of_a_few_characters_is_not_looked_for(key: str | None) -> None:
    """Taken out of `retry-after: 0`, it would change what a header means."""
    text = "x 0 abc extra"
    assert Redaction(key).content(text.encode()) == text.encode()
    assert Redaction(key).text(text) == text
    assert Redaction(key).message(text) == text


def test_keys_that_overlap_leave_nothing_of_either() -> None:
    """Where the key begins again within itself, all of it goes, and what follows is kept once."""
    key = "ab1cdeab1cde"
    assert redacted(f"<{key}{key[6:]}{key[6:]}>", key) == "<[redacted]>"
    assert redacted(f"<{key}{key[6:]}> {key}", key) == "<[redacted]> [redacted]"


def test_key_within_a_longer_match_brings_nothing_back() -> None:
    """Where one spelling is found within what goes already, the end of the longer one does not come back."""
    code = base64.b64encode(f"user:{KEY}x".encode()).decode()
    alone = redacted(f'"{code}"')
    assert redacted(f'"{code}" {percent(KEY)}') == f"{alone} [redacted]"


MESSAGES = {
    "Incorrect API key provided: sk-proj-AbCd1234efgh5678.": "Incorrect API key provided: [redacted].",
    "Bearer abc123def456 is wrong": "Bearer [redacted] is wrong",
    "authorization: bearer  eyJhbGciOi.J9.abc": "authorization: bearer  [redacted]",
    "key sk-ant-api03-aaaaaaaaaaaaaaaa, gsk_a1B2c3D4e5F6g7H8i9": "key [redacted], [redacted]",
    "AIzaSyA1B2c3D4e5F6g7H8i9J0k and hf_abcdefghijklmnopqrst": "[redacted] and [redacted]",
    "SFMyNTY.g2gDbQAAACQ.abc": "[redacted]",
    "Incorrect API key provided: sk-ab***yz": "Incorrect API key provided: sk-ab***yz",
    "Bearer authentication is required": "Bearer authentication is required",
    "use sk-learn, task-12345678 or risk-free": "use sk-learn, task-12345678 or risk-free",
    f"mine: {KEY}": "mine: [redacted]",
}


@pytest.mark.parametrize(("message", "shown"), MESSAGES.items())
def test_message_of_a_failure_has_nobodys_key(message: str, shown: str) -> None:
    """Providers and proxies quote keys that are not ours as well; words about keys stay."""
    assert Redaction(KEY).message(message) == shown
    assert Redaction(None).message(message.replace(KEY, "sk-other-12345678")) == shown


def test_words_of_a_model_keep_what_looks_like_a_key() -> None:
    """An answer about keys is an answer; only our own key is taken out."""
    text = "Set OPENAI_API_KEY=sk-proj-AbCd1234efgh5678 and send Bearer abc123def456"
    assert Redaction(KEY).content(text.encode()) == text.encode()


@pytest.mark.parametrize("spelled", [SPELLINGS[name] for name in ("plain", "JSON in JSON", "URL twice", "mixed")])
@pytest.mark.parametrize("around", ["ö ", "%41\\u0041"])
def test_key_goes_wherever_it_stands_in_a_large_body(spelled: str, around: str) -> None:
    """A large body is searched in pieces; a key that lies across their border is one still."""
    for before in range(2**18 - len(spelled) - 3, 2**18 + 3, 7):
        start = (around * 2**18).encode()[:before]
        found = Redaction(KEY).content(start + spelled.encode() + b"\n" * 300_000)
        assert found == start + REDACTED + b"\n" * 300_000


def test_megabyte_is_searched_in_milliseconds() -> None:
    """A large reply costs about a millisecond a megabyte, whether the key is in it or not."""
    plain = b'{"content": "' + b"Some words of an answer, sk-can, with 100 % and more.\\n" * 18_000 + b'"}'
    has_key = plain[:500_000] + KEY.encode() + plain[500_000:]
    redaction = Redaction(KEY)
    for content in (plain, has_key):
        took_s = min(_took_s(redaction, content) for _ in range(5))
        assert took_s < 0.02  # some 2 ms by itself; the tests run on busy machines


def _took_s(redaction: Redaction, content: bytes) -> float:
    started = time.perf_counter()
    redaction.content(content)
    return time.perf_counter() - started
