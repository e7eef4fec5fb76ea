"""A row -> the exact bytes and their key: what makes two requests the same, and what a row cannot ask."""

import datetime
import decimal
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.errors import CheckpointError, StopSignal
from batchchat.job.file import load_job
from batchchat.prompt.media.folder import MediaFolder, Unremembered
from batchchat.prompt.request import KEY_BYTES, Prompt, compile_prompt
from batchchat.records import ChatRequest, Failure, Row

NO_MEDIA = MediaFolder(None, 2**20, None, Unremembered())
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "{{ x }}"}],
    "temperature": 0,
}


def _prompt(
    body: Mapping[str, Any] = BODY, columns: str = "x", *, endpoint_name: str = "oxen", dedupe: bool = True
) -> Prompt:
    return compile_prompt(body, columns.split(), endpoint_name=endpoint_name, dedupe=dedupe, media=NO_MEDIA)


def _request(prompt: Prompt, name: str = "1", **values: Any) -> ChatRequest:
    made = prompt.request(Row(1, values, name))
    assert isinstance(made, ChatRequest)
    return made


def _key(body: Mapping[str, Any] = BODY, name: str = "1", x: Any = "hi", **options: Any) -> bytes:
    return _request(_prompt(body, **options), name, x=x).key


def _failure(body: Mapping[str, Any], **values: Any) -> str:
    made = _prompt(body, " ".join(values)).request(Row(1, values, "1"))
    assert isinstance(made, Failure)
    assert made == Failure("template", made.message)
    return made.message


def _parameter(value: Any) -> bytes:
    """Return the JSON of a parameter whose template is a bare column."""
    made = _request(_prompt({"model": "m", "messages": [{"role": "user", "content": "c"}], "p": "{{ x }}"}), x=value)
    return made.body.partition(b'"p":')[2].removesuffix(b"}")


# the bytes


def test_body_is_compact_json_in_order() -> None:
    """Model and messages first, no blanks, UTF-8 as it is."""
    made = _request(_prompt(), name="t-1", x="é 😀")
    assert made.body.decode() == (
        '{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"é 😀"}],"temperature":0}'
    )
    assert made.row_name == "t-1"


@pytest.mark.parametrize(
    ("value", "json_text"),
    [
        (5, b"5"),
        (1.5, b"1.5"),
        (True, b"true"),
        (None, b"null"),
        ("5", b'"5"'),
        ([1, None, "a"], b'[1,null,"a"]'),
        ({"a": {"b": [decimal.Decimal("0.10")]}}, b'{"a":{"b":[0.10]}}'),
        (decimal.Decimal("12345678901234567890.12"), b"12345678901234567890.12"),
        (decimal.Decimal("1E+3"), b"1000"),
        (datetime.date(2026, 1, 2), b'"2026-01-02"'),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), b'"2026-01-02T03:04:05+00:00"'),
        (datetime.timedelta(seconds=90), b"90.0"),
        (b"raw", b'"raw"'),
    ],
)
def test_parameter_has_its_natural_json(value: object, json_text: bytes) -> None:
    """A column's type is the parameter's type; decimals keep every digit."""
    assert _parameter(value) == json_text


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_stands_once_in_the_body(value: str) -> None:
    """A cell can neither break out of its string nor be lost on the way."""
    made = _request(_prompt(), x=value)
    body = json.loads(made.body)
    assert body == {**BODY, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": value}]}
    assert made.body.count(b'"content":' + orjson.dumps(value) + b"}") >= 1
    marked = _request(_prompt(), x=f"\u2983{value.replace(chr(0x2983), '')}\u2984").body.decode()
    assert marked.count("\u2983") == 1


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_different_text_has_a_different_key(one: str, two: str) -> None:
    """Keys are equal exactly where the texts are."""
    prompt = _prompt()
    assert (_request(prompt, x=one).key == _request(prompt, x=two).key) == (one == two)


# the key


def test_same_body_has_the_same_key() -> None:
    """Another row, another compilation, another process: the key is the body's and the endpoint's."""
    assert len(_key()) == KEY_BYTES
    assert _key() == _key(name="2") == _key(dict(BODY))
    body = _request(_prompt(), x="hi").body
    assert _key() == hashlib.blake2b(body + b"\0oxen", digest_size=20).digest()


def test_value_counts_and_not_where_it_came_from() -> None:
    """A literal and a template that gives it are one request."""
    literal = {**BODY, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]}
    assert _key(literal) == _key()


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "n"},
        {"temperature": 1},
        {"temperature": 0.0},
        {"temperature": "0"},
        {"temperature": None},
        {"max_tokens": 5},
        {"tools": []},
        {"seed": 1},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "{{ x }}"}]},
        {"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "{{ x }}"}]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "{{ x }} "}]},
        {"messages": [{"role": "user", "content": "{{ x }}"}, {"role": "system", "content": "s"}]},
        {"messages": [{"role": "user", "content": "{{ x }}"}]},
    ],
)
def test_any_change_of_the_body_changes_the_key(changed: dict[str, Any]) -> None:
    """Nothing stale is kept when a model, a parameter, a message or their order changes."""
    assert _key({**BODY, **changed}) != _key()


def test_endpoint_name_changes_the_key() -> None:
    """An answer of the embedded endpoint never fills in for a real one."""
    assert len({_key(endpoint_name=name) for name in ("oxen", "local", "", "oxen ")}) == 4


@pytest.mark.parametrize(
    "extra",
    [
        {"stream": False},
        {"stream": None},
        {"stream_options": {"include_usage": True}},
        {"stream": "{{ x }}", "stream_options": "{{ x }}"},
    ],
)
def test_streaming_does_not_change_the_key(extra: dict[str, Any]) -> None:
    """It changes how an answer travels, not what it is; it is still sent."""
    made = _request(_prompt({**BODY, **extra}), x="hi")
    assert made.key == _key()
    assert json.loads(made.body).keys() == {*BODY, *extra}


def test_nested_stream_changes_the_key() -> None:
    """Only the body's own `stream` is left out."""
    assert _key({**BODY, "metadata": {"stream": True}}) != _key({**BODY, "metadata": {}})


def test_dedupe_off_adds_the_row() -> None:
    """Each row gets a sample of its own, the same one each time."""
    keys = [_key(name=name, dedupe=False) for name in ("1", "2", "1")]
    assert keys[0] == keys[2]
    assert len({*keys, _key()}) == 3


def test_row_and_endpoint_do_not_run_together() -> None:
    """Row `b` at endpoint `a` is not row `` at endpoint `ab`."""
    pairs = [("ab", "c"), ("a", "bc"), ("abc", "")]
    assert len({_key(name=row, endpoint_name=name, dedupe=False) for name, row in pairs}) == 3


def test_order_in_the_job_file_does_not_matter(tmp_path: Path) -> None:
    """Parameters may be sorted, moved above the messages or quoted otherwise without asking anything again."""
    one = 'request:\n  model: m\n  messages:\n    - {role: user, content: "{{ x }}"}\n  top_p: 1\n  max_tokens: 5\n'
    two = "request:\n  max_tokens: 5\n  top_p: 1\n  messages: [{role: user, content: '{{ x }}'}]\n  model: 'm'\n"
    requests = []
    for text in (one, two):
        (tmp_path / "job.yaml").write_text(text)
        job = load_job(tmp_path / "job.yaml").job
        requests.append(_request(_prompt(job.request.as_body()), x="hi"))
    assert requests[0] == requests[1]


def test_key_needs_only_the_columns_that_are_read() -> None:
    """The run reads some columns, the output all of them: both must find the same answer."""
    prompt = _prompt(BODY, "x y z")
    assert prompt.template.columns == frozenset("x")
    assert _request(prompt, x="hi").key == _request(prompt, x="hi", y=1, z=[2]).key


# a row that cannot be asked


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("n / 0", "ZeroDivisionError: division by zero"),
        ("n + s", "TypeError: unsupported operand type(s) for +: 'int' and 'str'"),
        ("s.nope", "UndefinedError: 'str object' has no attribute 'nope'"),
        (
            "s.__class__",
            (
                "SecurityError: `__class__` of a value of type str is not available in a template; use a filter, or"
                " prepare a column before the run"
            ),
        ),
        ("b", "a binary value of 1 bytes is not UTF-8 text, so it cannot stand in a prompt"),
        ("u", "TypeError: str is not valid UTF-8: surrogates not allowed"),
    ],
)
def test_expression_that_fails_is_the_rows_failure(expression: str, message: str) -> None:
    """It is a value, with the kind `template` and the reason; no exception gets out."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"{{{{ {expression} }}}}"}]}
    assert _failure(body, n=1, s="a", b=b"\xff", u="\ud800") == message


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_number_beyond_64_bits_is_a_failure(value: int) -> None:
    """An endpoint would round it."""
    assert _failure({**BODY, "p": "{{ n }}"}, x="", n=value) == "TypeError: Integer exceeds 64-bit range"


def test_binary_parameter_says_why() -> None:
    """The message for bytes in a parameter is the one for bytes in a text."""
    assert _failure({**BODY, "p": "{{ b }}"}, x="", b=b"\xff") == (
        "a binary value of 1 bytes is not UTF-8 text, so it cannot stand in a prompt"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), decimal.Decimal("NaN")])
def test_number_that_json_has_not_is_a_failure(value: object) -> None:
    """A temperature of NaN is a mistake in the row and not the endpoint's default."""
    assert "is not a number that JSON has" in _failure({**BODY, "p": "{{ n }}"}, x="", n=value)


def test_if_without_else_is_explained() -> None:
    """Jinja knows what is missing; its words must reach the row's error."""
    assert "no else section was defined" in _failure({**BODY, "p": "{{ 'a' if n }}"}, x="", n=0)


def test_conversation_that_is_no_json_is_a_failure() -> None:
    """Text in `messages` that is not JSON fails the row with the place."""
    words = (
        "`messages` must be a list of messages, or the JSON text of one; this row gives '[{' (unexpected end of data"
    )
    assert _failure({"model": "m", "messages": "{{ x }}"}, x="[{").startswith(words)


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value_is_a_request_or_a_failure(value: object) -> None:
    """Whatever a cell holds, and wherever it goes, the outcome is a value."""
    prompt = _prompt({"model": "{{ x }}", "messages": "{{ x }}", "p": "{{ x }}"})
    whole = _prompt({**BODY, "p": "{{ x }}"})
    for made in (prompt.request(Row(1, {"x": value}, "1")), whole.request(Row(1, {"x": value}, "1"))):
        assert isinstance(made, (ChatRequest, Failure))


def test_signal_in_the_middle_of_a_template_is_no_row_failure() -> None:
    """A signal's exception goes through: the run must stop, not blame the row."""

    class Interrupting(float):
        def __str__(self) -> str:
            raise StopSignal(15)

    prompt = compile_prompt(
        {"model": "m", "messages": [{"role": "user", "content": "a{{ x ~ '' }}"}]},
        ["x"],
        endpoint_name="e",
        dedupe=True,
        media=NO_MEDIA,
    )
    with pytest.raises(StopSignal):
        prompt.request(Row(1, {"x": Interrupting()}, "1"))


class BrokenMemory(Unremembered):
    """A memory whose checkpoint cannot be read."""

    def find(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        """Fail."""
        message = "the checkpoint cannot be used"
        raise CheckpointError(message)


def test_broken_memory_of_media_is_no_row_failure(tmp_path: Path) -> None:
    """A checkpoint that cannot be read stops the run; no row is blamed for it."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    part = {"type": "image_url", "image_url": {"url": "{{ x }}"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    folder = MediaFolder(tmp_path, 2**20, None, BrokenMemory())
    prompt = compile_prompt(body, ["x"], endpoint_name="e", dedupe=True, media=folder)
    with pytest.raises(CheckpointError):
        prompt.request(Row(1, {"x": "a.png"}, "1"))
