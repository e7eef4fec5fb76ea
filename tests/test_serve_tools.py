"""Tools of the embedded endpoint: when it calls them, what with, and what it refuses."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.serve.phrase import named_things
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings


def tool(name: str, description: str = "", required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return a tool with these properties."""
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT = {"type": "string"}
WEATHER = tool("get_weather", "Get the current weather", ("location",), location=TEXT)
STOCK = tool("get_stock_price", "Price of a share", ("symbol",), symbol=TEXT)
SEARCH = tool("search_web", "Search for pages", ("query",), query=TEXT, count={"type": "integer", "maximum": 5})
ALL = [WEATHER, STOCK, SEARCH]
NAMED = {"type": "function", "function": {"name": "search_web"}}
ASKED = {"role": "user", "content": "What is the weather in Rome?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "18 C, sunny"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of one endpoint as it stands."""
    with EmbeddedEndpoint(ServeSettings()) as endpoint, httpx.Client(base_url=endpoint.base_url) as client:
        yield client


def ask(client: httpx.Client, content: Any, **more: Any) -> httpx.Response:
    """Ask for one completion; `content` is what the user says, or all messages."""
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    return client.post("/chat/completions", json={"model": "gpt-5", "messages": messages, **more})


def choice_of(response: httpx.Response) -> Any:
    """Return the first choice."""
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def calls_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """Return the names and arguments that are called."""
    calls = choice_of(response)["message"].get("tool_calls", ())
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def test_call_has_the_wire_shape(client: httpx.Client) -> None:
    """A call stands beside a null content, with its index, an id and its arguments as text."""
    choice = choice_of(ask(client, "What is the weather in San Francisco?", tools=[WEATHER]))
    call_id = choice["message"]["tool_calls"][0]["id"]
    assert call_id.startswith("call_")
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "index": 0,
                    "id": call_id,
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"location":"San Francisco"}'},
                }
            ],
        },
        "finish_reason": "tool_calls",
    }


@pytest.mark.parametrize(
    ("content", "calls"),
    [
        ("What is the weather in San Francisco?", [("get_weather", {"location": "San Francisco"})]),
        ("weather in san francisco today", [("get_weather", {"location": "san francisco"})]),
        (
            "Weather in Paris, Lima and Tokyo, please",
            [("get_weather", {"location": place}) for place in ("Paris", "Lima", "Tokyo")],
        ),
        ("How is the weather in Paris, France?", [("get_weather", {"location": "Paris, France"})]),
        (
            "Price of AAPL and the weather in Austin, TX?",
            [("get_stock_price", {"symbol": "AAPL"}), ("get_weather", {"location": "Austin, TX"})],
        ),
        (
            "The weather and the stock price in Rome",
            [("get_weather", {"location": "Rome"}), ("get_stock_price", {"symbol": "Rome"})],
        ),
        ("Search the web for 3 red shoes", [("search_web", {"query": "Search the web for 3 red shoes", "count": 3})]),
        ("Hello, how are you?", []),
    ],
)
def test_words_of_the_message_choose_the_calls(
    client: httpx.Client, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """In auto the tools are called that the message speaks for, once for each thing that it names, or none."""
    assert calls_of(ask(client, content, tools=ALL)) == calls
    assert calls_of(ask(client, content, tools=ALL, tool_choice="auto")) == calls


def test_one_call_when_not_parallel(client: httpx.Client) -> None:
    """With parallel_tool_calls false there is one call, the first."""
    reply = ask(client, "Weather in Paris and Tokyo", tools=ALL, parallel_tool_calls=False)
    assert calls_of(reply) == [("get_weather", {"location": "Paris"})]


def test_ids_are_the_same_each_time_and_differ(client: httpx.Client) -> None:
    """The same request gives the same ids; no two calls of a reply, nor of two requests, have one id."""
    replies = [
        ask(client, f"Weather in {place} and Tokyo", tools=ALL, n=2).json() for place in ("Rome", "Oslo", "Rome")
    ]
    ids = [[call["id"] for choice in reply["choices"] for call in choice["message"]["tool_calls"]] for reply in replies]
    assert ids[0] == ids[2]
    assert len({*ids[0], *ids[1]}) == 8


def test_none_is_never_called(client: httpx.Client) -> None:
    """With tool_choice none the answer is text."""
    choice = choice_of(ask(client, "What is the weather in Rome?", tools=ALL, tool_choice="none"))
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].startswith("[stand-in] What is the weather in Rome?")


def test_required_always_calls(client: httpx.Client) -> None:
    """With tool_choice required the tool that fits best is called, the first when none does."""
    assert calls_of(ask(client, "Weather in Oslo", tools=ALL[::-1], tool_choice="required")) == [
        ("get_weather", {"location": "Oslo"})
    ]
    assert [name for name, _ in calls_of(ask(client, "Hello", tools=ALL, tool_choice="required"))] == ["get_weather"]


def test_named_tool_is_called(client: httpx.Client) -> None:
    """A tool that tool_choice names is called whatever the message says, and ends with tool_calls."""
    reply = ask(client, "Hello there", tools=ALL, tool_choice=NAMED)
    assert choice_of(reply)["finish_reason"] == "tool_calls"
    assert calls_of(reply) == [("search_web", {"query": "Hello there", "count": 4})]


def test_result_is_quoted(client: httpx.Client) -> None:
    """After a tool's result the answer is text that quotes it, or every result of several."""
    choice = choice_of(ask(client, [ASKED, CALLED, RESULT], tools=ALL))
    assert choice["message"]["content"] == "[stand-in] The tool says: 18 C, sunny"
    assert choice["finish_reason"] == "stop"
    choice = choice_of(ask(client, [ASKED, CALLED, RESULT, {**RESULT, "content": "Wind: 3"}], tools=ALL))
    assert choice["message"]["content"] == "[stand-in] The tools say: 18 C, sunny; Wind: 3"


def test_tool_without_parameters_takes_none(client: httpx.Client) -> None:
    """A tool that says nothing of its parameters is called with an empty object."""
    plain = {"type": "function", "function": {"name": "get_time"}}
    assert calls_of(ask(client, "What time is it?", tools=[plain])) == [("get_time", {})]


def test_arguments_obey_the_schema(client: httpx.Client) -> None:
    """A place that the schema does not allow gives way to one that it does; properties of every type are filled."""
    short = tool(
        "get_weather", "", (), city={"type": "string", "maxLength": 3}, unit={"enum": ["c", "f"]}, days={"const": 2}
    )
    ((_, arguments),) = calls_of(ask(client, "Weather in Nairobi", tools=[short]))
    assert arguments == {"city": "Wea", "unit": arguments["unit"], "days": 2}
    assert arguments["unit"] in ("c", "f")


def test_tools_cost_prompt_tokens(client: httpx.Client) -> None:
    """The tools count as a part of the prompt, and the calls as the completion."""
    with_tools = ask(client, "Weather in Rome", tools=[WEATHER]).json()["usage"]
    without = ask(client, "Weather in Rome").json()["usage"]
    assert with_tools["prompt_tokens"] - without["prompt_tokens"] == -(
        -len(json.dumps([WEATHER], separators=(",", ":"))) // 4
    )
    assert with_tools["completion_tokens"] == 3 + 5


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"tools": 1}, "tools is 1; it must be an array of at most 128"),
        ({"tools": [1]}, "tools[0] is 1; it must be an object with the type function and a function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            'tools[0].function.name is "a b"; it must be 1 to 64 letters, digits, underscores and dashes',
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters is an object; it must be a JSON Schema of the type object",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"properties": 1}}}]},
            "tools[0].function.parameters: #/properties must be an object",
        ),
        ({"tool_choice": "required"}, "tool_choice needs tools, and there are none"),
        (
            {"tools": ALL, "tool_choice": "any"},
            (
                'tool_choice is "any"; it must be none, auto, required, or an object with the type function and a '
                "function that has a name"
            ),
        ),
        (
            {"tools": ALL, "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            'tool_choice.function.name is "fly"; it must be one of the tools: get_weather, get_stock_price, search_web',
        ),
        ({"tools": ALL, "parallel_tool_calls": 1}, "parallel_tool_calls is 1; it must be true or false"),
        (
            {"messages": [ASKED, CALLED, {"role": "tool", "content": "x"}]},
            "messages[2].tool_call_id is null; it must be the id of the tool call that this answers",
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"id": "x"}]}]},
            (
                "messages[1].tool_calls[0] is an object; it must be an object with an id and a function with name and "
                "arguments, all of them strings"
            ),
        ),
    ],
)
def test_malformed_tools_are_refused(client: httpx.Client, change: dict[str, Any], detail: str) -> None:
    """What is wrong with tools, their choice or the messages about them is 400, with what is allowed."""
    response = client.post("/chat/completions", json={"model": "gpt-5", "messages": [ASKED], **change})
    assert (response.status_code, response.json()["error"]["detail"]) == (400, detail)


@given(st.text(), st.sampled_from(["in ", "for ", "of Paris, ", " and Rome", ""]))
def test_things_are_words_of_the_text(text: str, around: str) -> None:
    """What a text names stands in the text as it is spelled, and no thing twice."""
    whole = f"{text}{around}{text}"
    phrases = [thing.phrase for thing in named_things(whole)]
    assert all(phrase and phrase in whole for phrase in phrases)
    assert len(set(phrases)) == len(phrases)
