"""Tools of the embedded endpoint: when it calls them, what with, and what it refuses."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

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
        (
            "What is the weather and the stock price in Rome?",
            [
                ("get_weather", {"location": "Rome"}),
                ("get_stock_price", {"symbol": "What is the weather and the stock price in Rome?"}),
            ],
        ),
        ("Search the web for 3 red shoes", [("search_web", {"query": "Search the web for 3 red shoes", "count": 3})]),
        ("Hello, how are you?", []),
    ],
)
def test_words_of_the_message_choose_the_calls(
    client: httpx.Client, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """In auto the tools are called whose names the message speaks for, or none."""
    assert calls_of(ask(client, content, tools=ALL)) == calls
    assert calls_of(ask(client, content, tools=ALL, tool_choice="auto")) == calls


def test_one_call_when_not_parallel(client: httpx.Client) -> None:
    """With parallel_tool_calls false there is one call, the first."""
    reply = ask(client, "Weather and stock price in Paris", tools=ALL, parallel_tool_calls=False)
    assert calls_of(reply) == [("get_weather", {"location": "Paris"})]


def test_ids_are_the_same_each_time_and_differ(client: httpx.Client) -> None:
    """The same request gives the same ids; no two calls of a reply, nor of two requests, have one id."""
    replies = [
        ask(client, f"Weather and stock price in {place}", tools=ALL, n=2).json() for place in ("Rome", "Oslo", "Rome")
    ]
    ids = [[call["id"] for choice in reply["choices"] for call in choice["message"]["tool_calls"]] for reply in replies]
    assert ids[0] == ids[2]
    assert len({*ids[0], *ids[1]}) == 8


def test_none_is_never_called(client: httpx.Client) -> None:
    """With tool_choice none the answer is text."""
    choice = choice_of(ask(client, "What is the weather in Rome?", tools=ALL, tool_choice="none"))
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "[stand-in] What is the weather in Rome?"


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
    assert calls_of(reply) == [("search_web", {"query": "Hello there", "count": 0})]


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
    """A place is cut to what the schema allows; properties of every type are filled."""
    short = tool(
        "get_weather", "", (), city={"type": "string", "maxLength": 3}, unit={"enum": ["c", "f"]}, days={"const": 2}
    )
    ((_, arguments),) = calls_of(ask(client, "Weather in Nairobi", tools=[short]))
    assert arguments == {"city": "Nai", "unit": arguments["unit"], "days": 2}
    assert arguments["unit"] in ("c", "f")


def test_parameters_that_cannot_be_met_are_refused(client: httpx.Client) -> None:
    """A tool whose arguments cannot be made is 400, with its name."""
    code = tool("enter_code", "", ("code",), code={"type": "string", "pattern": "^X{7}$"})
    response = ask(client, "Enter it", tools=[code], tool_choice="required")
    assert response.status_code == 400
    assert response.json()["error"]["detail"].startswith("the parameters of the tool enter_code: the embedded endpoint")


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
        ({"tools": 1}, 'tools: 1 is not of types "null", "array"'),
        ({"tools": [1]}, 'tools[0]: 1 is not of type "object"'),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            'tools[0].function.name: "a b" does not match "^[A-Za-z0-9_.-]{1,64}$"',
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
            'tools[0].function.parameters.type: "object" was expected',
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"properties": 1}}}]},
            'tools[0].function.parameters: it is not a JSON Schema (1 is not of type "object")',
        ),
        ({"tool_choice": "required"}, "tool_choice asks for a tool that is not among the tools"),
        ({"tools": ALL, "tool_choice": "any"}, 'tool_choice: "any" is not one of "none", "auto" or "required"'),
        (
            {"tools": ALL, "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "tool_choice asks for a tool that is not among the tools",
        ),
        ({"tools": ALL, "parallel_tool_calls": 1}, 'parallel_tool_calls: 1 is not of types "null", "boolean"'),
        (
            {"messages": [ASKED, CALLED, {"role": "tool", "content": "x"}]},
            'messages[2]: "tool_call_id" is a required property',
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"id": "x"}]}]},
            'messages[1].tool_calls[0]: "function" is a required property',
        ),
    ],
)
def test_malformed_tools_are_refused(client: httpx.Client, change: dict[str, Any], detail: str) -> None:
    """What is wrong with tools, their choice or the messages about them is 400, with the place."""
    response = client.post("/chat/completions", json={"model": "gpt-5", "messages": [ASKED], **change})
    assert (response.status_code, response.json()["error"]["detail"]) == (400, detail)
