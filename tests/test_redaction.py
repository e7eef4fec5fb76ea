"""The key goes, as it stands and as JSON writes it, and nothing else does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat import redaction
from batchchat.redaction import Redaction, is_secret, keep_secret, without_keys
from batchchat.send.reply.reply import shown_message
from batchchat.show.json_lines import json_text, log_line
from batchchat.show.printable import on_one_line, one_line, printable

KEY = "sk-canary+a/b_c.0123-Wxyz~9"
REDACTED = b"[redacted]"


def unicode(key: str, digits: str = "%04x") -> str:
    """Return a key with every character escaped as in JSON."""
    return "".join("\\u" + digits % ord(character) for character in key)


SPELLINGS = {
    "plain": KEY,
    "all of it escaped for JSON": unicode(KEY),
    "in upper-case digits": unicode(KEY, "%04X"),
    "one escaped for JSON": KEY.replace("-", "\\u002d"),
    "slash escaped": KEY.replace("/", "\\/"),
    "plus escaped": KEY.replace("+", "\\u002B"),
    "mixed": KEY.replace("/", "\\/").replace("+", "\\u002b"),
}


def redacted(text: str, key: str = KEY) -> str:
    """Return a text without the key."""
    return Redaction(key).content(text.encode()).decode()


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=list(SPELLINGS))
def test_every_spelling_goes(spelled: str) -> None:
    """As it stands, and with any of its characters escaped for JSON, in hex digits of either case."""
    assert redacted(f"a {spelled} b {spelled}{spelled}") == "a [redacted] b [redacted][redacted]"
    assert Redaction(KEY).text(f"é{spelled}") == "é[redacted]"


@given(st.binary(), st.binary(), st.sampled_from(list(SPELLINGS.values())))
def test_surroundings_stay_as_they_are(before: bytes, after: bytes, spelled: str) -> None:
    """Of what stands around the key, nothing is lost, whatever bytes these are."""
    content = Redaction(KEY).content(b"<" + before + b"<" + spelled.encode() + b">" + after + b">")
    assert content == b"<" + before + b"<" + REDACTED + b">" + after + b">"


@given(st.binary() | st.text().map(str.encode))
def test_content_without_the_key_is_the_same(content: bytes) -> None:
    """What does not have the key is handed back as it is."""
    assert Redaction(KEY).content(content) is content


@given(st.text(st.sampled_from(KEY[:6] + "\\u002d"), max_size=40), st.text(st.characters(), max_size=9))
def test_no_key_is_left_amid_halves_of_it(before: str, after: str) -> None:
    """Beginnings of the key, and of its escapes, before it do not hide it."""
    left = Redaction(KEY).text(f"{before}{KEY}{after}")
    assert KEY not in left
    assert Redaction(KEY).text(left) == left


@pytest.mark.slow
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=80).filter(is_secret))
def test_any_key_goes(key: str) -> None:
    """Keys may have any printable characters, also those that mean something in patterns and in JSON."""
    as_json = json.dumps(key)[1:-1]
    for spelled in (key, unicode(key), as_json, as_json.replace("/", "\\/")):
        assert redacted(f"<{spelled}>", key) == "<[redacted]>"
    assert key not in json.loads(redacted(json.dumps({"said": [key, f"Bearer {key}"]}), key))["said"]


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
    reply = f'{{"role":"{key}","created":1{key}5,"content":"A {key}, {unicode(key)} {key}'.encode()
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


@pytest.mark.slow
@pytest.mark.parametrize("spelled", [SPELLINGS[name] for name in ("plain", "mixed", "in upper-case digits")])
@pytest.mark.parametrize("around", ["ö ", "%41\\u0041"])
def test_key_goes_wherever_it_stands_in_a_large_body(spelled: str, around: str) -> None:
    """A large body is searched in pieces; a key that lies across their border is one still."""
    for before in range(2**18 - len(spelled) - 3, 2**18 + 3, 7):
        start = (around * 2**18).encode()[:before]
        found = Redaction(KEY).content(start + spelled.encode() + b"\n" * 300_000)
        assert found == start + REDACTED + b"\n" * 300_000


@pytest.fixture
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the key be in use."""
    monkeypatch.setattr(redaction, "KEYS_IN_USE", {})
    keep_secret(KEY)


HIDDEN = KEY[:9] + "\x1b[0m" + KEY[9:15] + "\u200e" + KEY[15:]


@pytest.mark.usefixtures("own_key")
def test_key_in_use_is_in_no_text_that_leaves() -> None:
    """Not on a terminal, which it would reach whole without the control characters in it; not in JSON, not in a log."""
    for shown in (
        printable(HIDDEN),
        on_one_line(HIDDEN),
        one_line(f"a\n{HIDDEN}", 60),
        json_text({"error": f"x{KEY}x"}),
    ):
        assert "[redacted]" in shown
        assert KEY not in shown
    assert KEY not in log_line("error", "error", HIDDEN, reason=KEY)
    assert without_keys(f"it was {KEY}") == "it was [redacted]"


def test_word_in_use_as_a_key_stays_in_what_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths and names may have it; what a provider says is wrong with the key has not."""
    monkeypatch.setattr(redaction, "KEYS_IN_USE", {})
    keep_secret("ollama")
    assert printable("ollama: /home/ollama/out.csv") == "ollama: /home/ollama/out.csv"
    assert shown_message("the key 'ollama' is wrong") == "the key '[redacted]' is wrong"
