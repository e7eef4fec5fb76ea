"""The official `openai` client against the embedded endpoint, on both mounts: what it gets from a real one, it gets."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.odd_replies import respond

MODEL = "gpt-4o-mini"
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a place",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


def user(content: Any) -> list[ChatCompletionMessageParam]:
    """Return the messages of one question."""
    return [{"role": "user", "content": content}]


HELLO = user("Hello there.")
FORECAST = user("What is the weather in San Francisco?")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[EmbeddedEndpoint]:
    """One endpoint as it stands, but with a key."""
    with EmbeddedEndpoint(ServeSettings(api_key="right")) as endpoint:
        yield endpoint


def client_of(endpoint: EmbeddedEndpoint, path: str = "/api/ai", api_key: str = "right") -> openai.OpenAI:
    """Return a client of one of the endpoint's mounts, which tries nothing twice."""
    base_url = endpoint.base_url.removesuffix("/api/ai") + path
    return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)


@pytest.fixture(scope="module", params=["/api/ai", "/v1"])
def client(endpoint: EmbeddedEndpoint, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """A client of each mount."""
    with client_of(endpoint, request.param) as client:
        yield client


def test_text_is_answered(client: openai.OpenAI) -> None:
    """A plain question gets a text, a finish_reason and a usage."""
    completion = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_tokens=100)
    assert completion.choices[0].message.content == "[stand-in] Hello there."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 16
    assert completion.object == "chat.completion"


def test_stream_is_read(client: openai.OpenAI) -> None:
    """A stream has the role, the words of the plain reply, the reason of its end and the usage."""
    plain = client.chat.completions.create(model=MODEL, messages=HELLO)
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.id for chunk in chunks} == {plain.id}
    assert chunks[0].choices[0].delta.role == "assistant"
    contents = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(content or "" for content in contents) == plain.choices[0].message.content
    assert len(contents) == 5
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == plain.usage


def test_tool_is_called(client: openai.OpenAI) -> None:
    """A question that speaks for a function gets a call of it, and its result an answer in text."""
    completion = client.chat.completions.create(model=MODEL, messages=FORECAST, tools=[WEATHER])
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"location": "San Francisco"})
    said: dict[str, Any] = choice.message.model_dump(exclude_none=True)
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "15 C, fog"}
    messages: list[Any] = [*FORECAST, said, result]
    answered = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert answered.choices[0].message.content == "[stand-in] The tool says: 15 C, fog"


def test_tool_call_is_streamed(client: openai.OpenAI) -> None:
    """The client's own assembly of a streamed call is the plain one."""
    plain = client.chat.completions.create(model=MODEL, messages=FORECAST, tools=[WEATHER]).choices[0].message
    with client.chat.completions.stream(model=MODEL, messages=FORECAST, tools=[WEATHER]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert plain.tool_calls is not None
    (streamed,), (whole,) = message.tool_calls, plain.tool_calls
    assert whole.type == "function"
    assert (streamed.id, streamed.function.name) == (whole.id, "get_weather")
    assert streamed.function.arguments == whole.function.arguments


def test_json_mode_gives_json(client: openai.OpenAI) -> None:
    """Three colours come as a list of three in a JSON object."""
    completion = client.chat.completions.create(
        model=MODEL, messages=user("List 3 colors as a JSON array"), response_format={"type": "json_object"}
    )
    assert json.loads(completion.choices[0].message.content or "") == {"colors": ["colors 1", "colors 2", "colors 3"]}


class Ticket(BaseModel):
    """What a ticket is about."""

    summary: str
    is_urgent: bool
    days: int
    dates: list[int]


def test_pydantic_model_is_parsed(client: openai.OpenAI) -> None:
    """`parse` gets an instance of the model that it asked for, by a strict json_schema."""
    completion = client.chat.completions.parse(
        model=MODEL, messages=user("My parcel is 3 days late, urgent!"), response_format=Ticket
    )
    parsed = completion.choices[0].message.parsed
    assert parsed is not None
    assert parsed == Ticket(summary="My parcel is 3 days late, urgent!", is_urgent=True, days=3, dates=[])


def png(width: int, height: int) -> bytes:
    """Return a PNG of one colour, as small as can be."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress((b"\0" + bytes(3 * width)) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_image_is_described(client: openai.OpenAI) -> None:
    """An image part is told by its type and its size in pixels."""
    url = f"data:image/png;base64,{base64.b64encode(png(96, 64)).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is in this image?"}]
    content = client.chat.completions.create(model=MODEL, messages=user(parts)).choices[0].message.content
    assert content is not None
    assert content.startswith("[stand-in] An image: image/png, 96 x 64 pixels, ")


def test_video_is_described(client: openai.OpenAI) -> None:
    """A video part, which is Oxen's own, is told by its host or its type."""
    parts = [{"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}]
    content = client.chat.completions.create(model=MODEL, messages=user(parts)).choices[0].message.content
    assert content == "[stand-in] A video at example.com."
    parts = [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}]
    content = client.chat.completions.create(model=MODEL, messages=user(parts)).choices[0].message.content
    assert content == "[stand-in] A video: video/mp4, 3 bytes."


def test_further_parameters_are_obeyed(client: openai.OpenAI) -> None:
    """`n`, `stop`, `seed` and `logprobs` give what their names say."""

    def asked() -> Any:
        return client.chat.completions.create(
            model=MODEL, messages=HELLO, n=2, stop=[" there"], seed=7, logprobs=True, top_logprobs=2
        )

    completion = asked()
    assert [choice.message.content for choice in completion.choices] == ["[stand-in] Hello"] * 2
    assert [entry.token for entry in completion.choices[0].logprobs.content] == ["[stand-in]", " Hello"]
    assert len(completion.choices[0].logprobs.content[0].top_logprobs) == 2
    assert asked() == completion


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    """The models are listed; one is retrieved by its name, slash and all."""
    listed = list(client.models.list())
    assert listed[0].id == "claude-sonnet-4-6"
    assert {model.object for model in listed} == {"model"}
    assert client.models.retrieve("meta/llama-3.3-70b-instruct").owned_by == "meta"


def test_missing_model_is_a_bad_request(client: openai.OpenAI) -> None:
    """No model is 400 in Oxen's words."""
    with pytest.raises(openai.BadRequestError, match="You must specify a model to call") as caught:
        client.chat.completions.create(model="", messages=HELLO)
    assert caught.value.status_code == 400


def test_wrong_key_is_an_authentication_error(endpoint: EmbeddedEndpoint, client: openai.OpenAI) -> None:
    """A wrong key is 401, for answers and for models."""
    path = client.base_url.path.rstrip("/")
    with client_of(endpoint, path, api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.chat.completions.create(model=MODEL, messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    title = "You must be authenticated to perform this action."
    assert caught.value.body == {"type": "unauthenticated", "title": title}


def test_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    """An unknown model is 404, for answers and for models."""
    with pytest.raises(openai.NotFoundError, match="Model not found: no-such-model"):
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    with pytest.raises(openai.NotFoundError, match="Model not found: no-such-model"):
        client.models.retrieve("no-such-model")


def test_too_many_requests_are_a_rate_limit() -> None:
    """Past the limit the client gets its own error for it, with the wait."""
    with EmbeddedEndpoint(ServeSettings(requests_per_minute=1)) as endpoint, client_of(endpoint) as client:
        client.chat.completions.create(model=MODEL, messages=HELLO)
        with pytest.raises(openai.RateLimitError, match="Rate limit exceeded") as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
    assert float(caught.value.response.headers["retry-after"]) > 50


def test_empty_account_is_an_error_of_its_status() -> None:
    """Without credits the client gets 402, for which it has no name."""
    with (
        EmbeddedEndpoint(ServeSettings(credits=0)) as endpoint,
        client_of(endpoint) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.status_code == 402
    assert caught.value.body == {"type": "insufficient_credits", "title": "You have run out of credits."}


@pytest.mark.parametrize("name", ["error-event", "error-data"])
def test_error_within_a_stream_is_raised(name: str) -> None:
    """An error that comes after the first words is raised where they are read."""
    with EmbeddedEndpoint(ServeSettings(), respond=respond) as endpoint, client_of(endpoint) as client:
        stream = client.chat.completions.create(model=f"odd/{name}", messages=HELLO, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError, match="The upstream connection was lost"):
            list(stream)
