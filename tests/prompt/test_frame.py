"""The JSON that a job's requests have in common: it saves time, and changes no byte and no key of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchchat.prompt.frame import framed, marks
from batchchat.prompt.media.folder import MediaFolder, Unremembered
from batchchat.prompt.request import Prompt, compile_prompt
from batchchat.records import ChatRequest, Failure, Row

COLUMNS = ("x", "y")
PART = {"type": "text", "text": "{{ x }}"}
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "{{ x }}"}],
    "temperature": 0,
}
WITH_IMAGE = [
    {"role": "user", "content": [PART, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}
]

TEXTS = st.text(st.sampled_from('a"\\\n\0é🙂\u2028{}%0') | st.characters(codec="utf-8"))
VALUES = TEXTS | st.none() | st.booleans() | st.integers() | st.floats() | st.just([PART]) | st.just("\ud800")


def prompt_of(body: Mapping[str, Any], *, dedupe: bool = True) -> Prompt:
    """Compile a request over two columns."""
    media = MediaFolder(None, 2**20, None, Unremembered())
    return compile_prompt(body, COLUMNS, endpoint_name="oxen", dedupe=dedupe, media=media)


def request(prompt: Prompt, **values: Any) -> ChatRequest | Failure:
    """Make the request of the seventh row."""
    return prompt.request(Row(7, {"y": "", **values}, "7"))


def content(text: str) -> dict[str, Any]:
    """Return a body with this text for the user's message."""
    return {**BODY, "messages": [{"role": "user", "content": text, "name": None}]}


FRAMED = [
    BODY,
    content("before {{ x }} between {{ y }} after"),
    content('{{ x | upper }}{% for one in "ab" %}{{ row["y"] }}{% endfor %}'),
    {**BODY, "messages": [{"role": "user", "content": [PART, {"type": "text", "text": "{{ y }}"}]}]},
    {**BODY, "messages": WITH_IMAGE},
    {**BODY, "stream": True},
    {"stream": True, "stream_options": {"a": None}, **BODY, "n": 3},
    {**BODY, "stream": False, "n": True},
    {**BODY, "messages": [{"role": "user", "content": "the same for all"}]},
    {**BODY, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": None}}}]},
    {**content("{{ x }}"), "metadata": {"\0": '"\0' + '0\0"', "1": "\\\0"}},
]
UNFRAMED = [
    {**BODY, "model": "{{ x }}"},
    {**BODY, "seed": "{{ x }}"},
    {**BODY, "stream": "{{ x }}"},
    {**BODY, "messages": "{{ x }}"},
    {**BODY, "messages": [{"role": "{{ x }}", "content": "c"}]},
    {**BODY, "messages": [{"role": "user", "content": [{"type": "{{ x }}", "text": "c"}]}]},
    {**BODY, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "{{ x }}"}}]}]},
    {**BODY, "messages": [{"role": "user", "content": [PART, {"type": "image_url", "image_url": {"url": "a.png"}}]}]},
    {**BODY, "messages": [{"role": "user", "content": [{"type": "image_url", "text": "{{ x }}"}]}]},
    {**content("{{ x }}"), "user": marks(1)[0]},
    {**content("{{ x }}"), "messages": []},
    {**content("{{ x }}"), "model": ""},
    {**content("{{ x }}"), "seed": 2**64},
]


@pytest.mark.parametrize("body", FRAMED)
def test_texts_have_a_frame(body: dict[str, Any]) -> None:
    """Where rows bring nothing but texts of messages, whatever makes the texts, the rest is made once."""
    assert prompt_of(body).frame is not None


@pytest.mark.parametrize("body", UNFRAMED)
def test_what_a_row_decides_has_no_frame(body: dict[str, Any]) -> None:
    """Parameters, roles, conversations and images are looked at for each row; so is what cannot be asked or told."""
    assert prompt_of(body).frame is None


@pytest.mark.slow
@given(st.sampled_from(FRAMED), VALUES, VALUES, st.booleans())
@example(FRAMED[0], marks(1)[0], "", True)
@example(FRAMED[1], marks(2)[1], marks(2)[0], True)
def test_frame_changes_no_byte(body: dict[str, Any], x: object, y: object, dedupe: bool) -> None:
    """Body, key, choices and failure are those that are made without it, whatever the values are."""
    prompt = prompt_of(body, dedupe=dedupe)
    assert request(prompt, x=x, y=y) == request(replace(prompt, frame=None), x=x, y=y)


@given(st.sampled_from(FRAMED), TEXTS, TEXTS)
def test_frame_is_filled_with_the_body(body: dict[str, Any], x: str, y: str) -> None:
    """What is sent is the JSON of the body that the templates make, with the usage of a stream asked for."""
    prompt = prompt_of(body)
    wanted = prompt.template.render({"x": x, "y": y})
    if wanted.get("stream") is True:
        wanted["stream_options"] = {**wanted.get("stream_options", {}), "include_usage": True}
    made = request(prompt, x=x, y=y)
    assert isinstance(made, ChatRequest)
    assert made.body == orjson.dumps(wanted)


@pytest.mark.parametrize(
    ("body", "dedupe", "key"),
    [
        (BODY, True, "861a27c1e06e88a89e9ebd382700f2d6697fdefb"),
        (BODY, False, "52bd23c42e4c8433150da7fdd73c72d3d3ed652b"),
        ({**BODY, "stream": True}, True, "861a27c1e06e88a89e9ebd382700f2d6697fdefb"),
        ({**content("a {{ x }}\n{{ x | upper }}"), "n": 2}, True, "65a00607944847d75afdbe29260044914c92d54f"),
        ({**BODY, "model": "{{ x }}"}, True, "99b67a384440fe7f46928f73693a3c32e45cb020"),
    ],
)
def test_key_stays_what_it_was(body: dict[str, Any], dedupe: bool, key: str) -> None:
    """Answers that were paid for stand under these keys; with others, every row of every job would be asked again."""
    made = request(prompt_of(body, dedupe=dedupe), x='é "1"')
    assert isinstance(made, ChatRequest)
    assert made.key.hex() == key


def test_text_that_is_there_twice_makes_no_frame() -> None:
    """Nobody can tell which of the two is the row's."""
    one, twice = orjson.dumps({"a": "x"}), orjson.dumps({"a": "x", "b": "x"})
    assert framed(one, one, ["x"], 1) is not None
    assert framed(twice, one, ["x"], 1) is None
    assert framed(one, twice, ["x"], 1) is None
    assert framed(one, one, ["z"], 1) is None
