"""The documented uses of the API, each through a job and through the official client: both must get the same."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import orjson
import polars as pl
import pytest
from PIL import Image

import batchchat
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import batchchat as command
from tests.running import write_csv, write_job

KEY = "sk-test-1234567890"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


def png(width: int, height: int) -> bytes:
    """Return a picture."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def data_url(mime_type: str, content: bytes) -> str:
    """Return content as a URL."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(64)


def asked(content: Any, **more: Any) -> dict[str, Any]:
    """Return a request with one user message."""
    return {"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": content}], **more}


def parts(key: str, url: str, text: str) -> list[dict[str, Any]]:
    """Return a medium and a text, in the order that the documentation advises."""
    return [{"type": key, key: {"url": url}}, {"type": "text", "text": text}]


CASES: dict[str, dict[str, Any]] = {
    "basic text": asked("What is a good name for a pet fox?"),
    "system and user": {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Answer with one of: yes, no."},
            {"role": "user", "content": "Yes, is it?"},
        ],
        "temperature": 0.2,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "max_tokens": 50,
    },
    "streaming": asked("Tell me of the sea, in a line.", stream=True),
    "a tool call": asked("What is the weather in San Francisco?", tools=[WEATHER], tool_choice="auto"),
    "a tool call in a stream": asked("What is the weather in San Francisco?", tools=[WEATHER], stream=True),
    "a named tool": asked(
        "Hello", tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}}
    ),
    "tools that are not to be used": asked("What is the weather in Rome?", tools=[WEATHER], tool_choice="none"),
    "a tool's result": {
        "model": "claude-sonnet-4-6",
        "messages": [
            {"role": "user", "content": "What is the weather in Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"a":1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees"},
        ],
        "tools": [WEATHER],
    },
    "JSON mode": asked("List 3 colors as a JSON array", response_format={"type": "json_object"}),
    "a JSON schema": asked(
        "The order 4711 never came, I am angry.",
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "ticket",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"mood": {"enum": ["angry", "calm"], "type": "string"}, "order": {"type": "integer"}},
                    "required": ["mood", "order"],
                    "additionalProperties": False,
                },
            },
        },
    ),
    "an image": asked(parts("image_url", data_url("image/png", png(64, 48)), "What is in this picture?")),
    "an image by its URL": asked(parts("image_url", "https://example.com/a.png", "What is in this picture?")),
    "a video": asked(parts("video_url", data_url("video/mp4", VIDEO), "What happens in this video?")),
    "cut by max_tokens": asked("Tell me everything about the sea and its ships.", max_tokens=4),
}


@dataclass
class Said:
    """What a request got, in the words of the output's columns."""

    completion: str | None = None
    tool_calls: list[dict[str, str]] = field(default_factory=list)
    finish_reason: str | None = None
    model: str | None = None
    response_id: str | None = None
    tokens: tuple[int, ...] = ()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[EmbeddedEndpoint]:
    """An endpoint that asks for a key."""
    with EmbeddedEndpoint(ServeSettings(api_key=KEY)) as served:
        yield served


def by_client(endpoint: EmbeddedEndpoint, body: dict[str, Any]) -> Said:
    """Ask through the official client."""
    with openai.OpenAI(api_key=KEY, base_url=endpoint.base_url, max_retries=0) as client:
        if body.get("stream"):
            return _streamed(client.chat.completions.create(**body, stream_options={"include_usage": True}))
        reply = client.chat.completions.create(**body)
    choice = reply.choices[0]
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in choice.message.tool_calls or []
    ]
    usage = (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens)
    return Said(choice.message.content, calls, choice.finish_reason, reply.model, reply.id, usage)


def _streamed(chunks: Any) -> Said:
    said = Said()
    for chunk in chunks:
        said.model, said.response_id = chunk.model, chunk.id
        if chunk.usage:
            said.tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.total_tokens)
        for choice in chunk.choices:
            said.finish_reason = choice.finish_reason or said.finish_reason
            if choice.delta.content:
                said.completion = (said.completion or "") + choice.delta.content
            for call in choice.delta.tool_calls or []:
                if call.index == len(said.tool_calls):
                    said.tool_calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
                said.tool_calls[call.index]["arguments"] += call.function.arguments or ""
    return said


def by_job(
    endpoint: EmbeddedEndpoint, body: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Ask through a job over a table of one row."""
    monkeypatch.setenv("SEED_KEY", KEY)
    job = {
        "endpoint": {"base_url": endpoint.base_url, "api_key_env": "SEED_KEY"},
        "checkpoint": {"path": str(folder / "answers.sqlite")},
        "request": body,
    }
    frame = batchchat.run(job, frame=pl.DataFrame({"number": [1]}))
    row: dict[str, Any] = frame.row(0, named=True)
    return row


@pytest.mark.slow
@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_job_gets_what_the_client_gets(
    body: dict[str, Any], endpoint: EmbeddedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row's columns hold what the official client reads from the same endpoint."""
    said, row = by_client(endpoint, body), by_job(endpoint, body, tmp_path, monkeypatch)
    assert row["error"] is None
    found = Said(
        row["completion"],
        row["tool_calls"] or [],
        row["finish_reason"],
        row["model"],
        row["response_id"],
        (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]),
    )
    assert found == said
    assert said.completion or said.tool_calls
    assert (row["first_token_s"] is not None) == bool(body.get("stream"))


def test_weather_of_san_francisco_is_asked_by_a_tool_call(
    endpoint: EmbeddedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documentation's own example gives the call that it shows."""
    row = by_job(endpoint, CASES["a tool call"], tmp_path, monkeypatch)
    (call,) = row["tool_calls"]
    assert (row["completion"], row["finish_reason"], call["name"]) == (None, "tool_calls", "get_weather")
    assert orjson.loads(call["arguments"])["location"] == "San Francisco"


def test_three_colors_are_json(endpoint: EmbeddedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON mode gives JSON with three colors."""
    answer = orjson.loads(by_job(endpoint, CASES["JSON mode"], tmp_path, monkeypatch)["completion"])
    (colors,) = answer.values()
    assert len(colors) == 3


def test_schema_gives_a_struct(endpoint: EmbeddedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response format with a schema fills `parsed`, typed by the schema."""
    row = by_job(endpoint, CASES["a JSON schema"], tmp_path, monkeypatch)
    assert row["parsed"] == orjson.loads(row["completion"])
    assert row["parsed"] == {"mood": "angry", "order": 4711}


def test_image_was_looked_at(endpoint: EmbeddedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in says what it was shown."""
    completion = by_job(endpoint, CASES["an image"], tmp_path, monkeypatch)["completion"]
    assert "image/png" in completion
    assert "64 x 48" in completion


ERRORS: dict[str, tuple[dict[str, Any], str, type[openai.APIStatusError], int, int, str]] = {
    "no model": ({"model": ""}, KEY, openai.BadRequestError, 400, 2, "request.model"),
    "no messages": ({"messages": []}, KEY, openai.BadRequestError, 400, 2, "request.messages"),
    "unknown model": ({"model": "no-such-model"}, KEY, openai.NotFoundError, 404, 4, "Model not found: no-such-model"),
    "wrong key": ({}, "sk-wrong-123456789", openai.AuthenticationError, 401, 4, "You must be authenticated"),
    "bad parameter": ({"temperature": 9}, KEY, openai.BadRequestError, 400, 1, "bad_request"),
    "bad image": (
        {"messages": [{"role": "user", "content": parts("image_url", "data:image/png;base64,AAAA", "?")}]},
        KEY,
        openai.BadRequestError,
        400,
        1,
        "media",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "key", "raised", "status", "code", "words"), ERRORS.values(), ids=ERRORS)
def test_errors_reach_the_client_and_the_job(
    changes: dict[str, Any],
    key: str,
    raised: type[openai.APIStatusError],
    status: int,
    code: int,
    words: str,
    endpoint: EmbeddedEndpoint,
    tmp_path: Path,
) -> None:
    """The client raises its error for the status; the job refuses it before, ends, or blames the row."""
    body = {**asked("Hello"), **changes}
    with (
        openai.OpenAI(api_key=key, base_url=endpoint.base_url, max_retries=0) as client,
        pytest.raises(raised) as error,
    ):
        client.chat.completions.create(**body)
    assert error.value.status_code == status
    write_csv(tmp_path / "rows.csv", ["a"])
    job = write_job(
        tmp_path,
        request=body,
        endpoint={"base_url": endpoint.base_url, "api_key_env": "SEED_KEY"},
        output={"path": "out.csv"},
    )
    ended = command("run", job, env={"SEED_KEY": key})
    assert ended.code == code, ended.stderr
    written = (tmp_path / "out.csv").read_text() if code == 1 else ""
    assert words in ended.stderr + written
    assert key not in ended.stderr + written
