"""Answers that should fit a schema: what is taken, mended, asked for again, corrected and given up."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.records import NO_USAGE, Completion, Failure, ToolCall, Usage, added
from batchchat.runtime import undisturbed
from batchchat.send.state.turn import Turn
from batchchat.send.structured.judge import Structure, body_for, schema_of
from batchchat.send.structured.lenient_json import MAX_MENDED_CHARACTERS

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "shipping"]}, "count": {"type": "integer"}},
    "required": ["label", "count"],
    "additionalProperties": False,
}
STRUCTURE = Structure(SCHEMA)
OPEN = Structure({"type": "object"})
LIST = Structure({"type": "array", "items": {"type": "integer"}})
GOOD = '{"label":"billing","count":1}'
FORMAT = {"type": "json_schema", "json_schema": {"name": "response", "strict": True, "schema": SCHEMA}}
MESSAGES = [{"role": "system", "content": "Label."}, {"role": "user", "content": "Where is my parcel?"}]
BODY = orjson.dumps({"model": "m", "messages": MESSAGES, "response_format": FORMAT})
LIMITED = orjson.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 100, "response_format": FORMAT})
CORRECTION = ({"role": "user", "content": "That does not fit."},)


def judged(content: str | None, turn: Turn | None = None, body: bytes = BODY, **more: Any) -> Any:
    """Return what follows from an answer's text."""
    return STRUCTURE.judge(Completion(content, **more), body, turn or Turn())


def parsed(content: str, structure: Structure = OPEN) -> str | None:
    """Return the JSON that is taken from a text, None when it is asked for again."""
    result = structure.judge(Completion(content), BODY, Turn())
    return result.parsed if isinstance(result, Completion) else None


def applied(turn: Turn, body: bytes = BODY) -> Any:
    """Return the body of a turn as a mapping."""
    return orjson.loads(body_for(body, turn))


# What is taken.


def test_an_answer_that_fits_is_taken() -> None:
    """The JSON stands compact in `parsed`, and the text stays as it came."""
    completion = Completion('{ "label": "billing",\n "count": 1 }', finish_reason="stop", usage=Usage(10, 2, 12))
    assert STRUCTURE.judge(completion, BODY, Turn()) == replace(completion, parsed=GOOD)


def test_the_usage_of_all_turns_is_summed() -> None:
    """An answer costs what was asked before it as well."""
    turn = Turn(said=CORRECTION, usage=Usage(10, 5, 15, None, 2))
    result = judged(GOOD, turn, usage=Usage(20, 6, 26, 4, None))
    assert result.usage == Usage(30, 11, 41, 4, 2)


@pytest.mark.parametrize(
    ("content", "more"),
    [
        (None, {"refusal": "I cannot help with that."}),
        (GOOD, {"refusal": "I cannot help with that."}),
        (None, {"tool_calls": (ToolCall("1", "look", "{}"),)}),
        ("", {"tool_calls": (ToolCall("1", "look", "{}"),)}),
        ("Let me look that up.", {"tool_calls": (ToolCall("1", "look", "{}"),)}),
        (None, {"tool_calls": (ToolCall("1", "look", "{}"),), "finish_reason": "length"}),
    ],
)
def test_refusals_and_tool_calls_are_answers(content: str | None, more: dict[str, Any]) -> None:
    """They are no JSON, and asking for it again would not be what the model wants to say."""
    result = judged(content, Turn(usage=Usage(1)), LIMITED, usage=Usage(2), **more)
    assert result == Completion(content, usage=Usage(3), **more)


def test_text_that_fits_is_taken_beside_tool_calls() -> None:
    """A model may answer and call a tool."""
    assert judged(GOOD, tool_calls=(ToolCall("1", "look", "{}"),)).parsed == GOOD


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"```JSON {GOOD}```",
        f"Here it is:\n```json\n{GOOD}\n```\nAnything else?",
        f'At first:\n```json\n{{"label": "lost"}}\n```\nCorrected:\n```json\n{GOOD}\n```',
        f"The answer is {GOOD}. I hope it helps {{you}}.",
        f"As said in [1]: {GOOD}",
        f"<think>Is it {{shipping}}? No.</think>\n\n{GOOD}",
        f'  <think>\n{{"label": "shipping", "count": 2}}\n</think>{GOOD}',
        f"So it is billing.\n</think>\n{GOOD}",
        f"{GOOD}<|eot_id|>",
    ],
)
def test_json_amid_other_text_is_taken(content: str) -> None:
    """Fences, prose, and a thought before the answer do not cost the row; nor do they ask for more tokens."""
    assert judged(content, body=LIMITED, finish_reason="length").parsed == GOOD


OTHER = '{"label":"shipping","count":2}'


@pytest.mark.parametrize(
    "content",
    [
        f"For example, {OTHER} would be wrong. My answer: {GOOD}",
        f"{OTHER}\n{GOOD}",
        f"```json\n{OTHER}\n```\nCorrected:\n```json\n{GOOD}\n```",
        f"```json\n{OTHER}\n{GOOD}\n```",
        f"Not {OTHER}:\n```json\n{GOOD}\n```\nIt was {OTHER} at first.",
        f"Not {OTHER}, see [1].\n```json\n{GOOD[:-1]},}}\n```\nThis: {GOOD}, as in [2] and [].",
        "{'label': 'shipping', 'count': 2}? No: {'label': 'billing', 'count': 1}",
        f"{{'label': 'lost'}} is none, {GOOD}",
    ],
)
def test_the_last_value_that_fits_is_taken(content: str) -> None:
    """What a model thinks better of stands before what it means, and what it fences is the answer."""
    assert judged(content).parsed == GOOD


@pytest.mark.parametrize(
    "content",
    [
        f"```json\n{GOOD}\n```\nOr:\n```json\n{OTHER[:-1]}",
        f"{GOOD}, or {OTHER[:-1]},",
    ],
)
def test_what_is_whole_is_taken_before_what_is_mended(content: str) -> None:
    """A value that the model finished is better than a guess at one that it did not."""
    assert judged(content).parsed == GOOD


@pytest.mark.parametrize(
    "before",
    [
        r"With \frac{1}{2} and \text{a, b}",
        "Dear {you}, {{ name }}, [see above], [x], [INST], [/INST]",
        "In if (a) { return b[i]; }",
        "{" * 300,
    ],
)
def test_brackets_that_begin_no_json_are_passed_over(before: str) -> None:
    """LaTeX, code and notes before an answer do not hide it."""
    assert judged(f"{before}: {GOOD}", body=LIMITED, finish_reason="length").parsed == GOOD


@pytest.mark.parametrize("count", [100, 101])
def test_so_many_broken_values_are_passed_over(count: int) -> None:
    """A text that goes on breaking its promises is not read to its end."""
    result = judged('{"a"} ' * count + GOOD)
    assert isinstance(result, Completion) == (count == 100)


@pytest.mark.parametrize(
    "content",
    [
        '{"label": "billing", "count": 1,}',
        '{"label": "billing", "count": 1, "not',
        '{"label": "billing", "count": 1, "note":',
        '```json\n{"label": "billing", "count": 1,',
        "{'label': 'billing', 'count': 1}",
        "{label: 'billing', count: 1}",
        '{"label": "billing" /* the bill */, "count": 1 // one\n}',
        '{"label": "billing"\n"count": 1}',
        '{"label": "billing",, "count": 1}',
    ],
)
def test_broken_json_is_mended_when_it_fits(content: str) -> None:
    """What a cut or a careless hand spoiled is mended."""
    assert judged(content).parsed == GOOD


@pytest.mark.parametrize("content", ['{"label": "billing", "count": 1', '[{"label": "billing", "count": 1,}'])
def test_broken_json_is_not_made_to_fit(content: str) -> None:
    """A number that the cut may have shortened is not taken, nor the first of a list that was cut."""
    assert isinstance(judged(content), Turn)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": "tex', '{"a":"tex"}'),
        ('{"a": "text\\', '{"a":"text"}'),
        ('{"a": "text\\u00', '{"a":"text"}'),
        ('{"a": "\\u00e9', '{"a":"é"}'),
        ('{"a": [1, {"b": "c', '{"a":[1,{"b":"c"}]}'),
        ('{"a": [1, 23', '{"a":[1]}'),
        ('{"a": {"b": [1, 2}', '{"a":{"b":[1,2]}}'),
        ('{"a": true, "b": fals', '{"a":true}'),
        ('{"a": null', '{"a":null}'),
        ('{"a": True, "b": False, "c": None,}', '{"a":true,"b":false,"c":null}'),
        ('{"a": "one\ntwo"}', '{"a":"one\\ntwo"}'),
        ('{"a": "C:\\dir"}', '{"a":"C:\\\\dir"}'),
        ('{"a": "he said "hi" to me"}', '{"a":"he said \\"hi\\" to me"}'),
        ("{'a': 'it's \"so\"'}", '{"a":"it\'s \\"so\\""}'),
        ("{'a': 'it\\'s'}", '{"a":"it\'s"}'),
        ('{1: "a"}', '{"1":"a"}'),
        ('{"a": 1]}', '{"a":1}'),
        ('{"a": 123456789012345678901234567890,}', '{"a":123456789012345678901234567890}'),
        ('{"a": 1, "a": 2,}', '{"a":2}'),
        ("{a}", None),
        ("{ }}", "{}"),
        ('{"a": NaN,}', None),
        ('{"a": .5,}', None),
        ("no JSON at all", None),
    ],
)
def test_mending_makes_what_was_meant(content: str, expected: str | None) -> None:
    """Each kind of damage has its remedy; what has none is asked for again."""
    assert parsed(content) == expected


def test_a_list_is_not_taken_for_its_first_object() -> None:
    """A schema for one object does not lose the others of a list."""
    assert isinstance(judged(f"[{GOOD}, {GOOD}]"), Turn)
    assert isinstance(judged(f"```json\n[{GOOD}, {GOOD}]\n```"), Turn)
    assert isinstance(judged(f"[{GOOD}, "), Turn)


def test_fences_within_a_string_are_part_of_it() -> None:
    """Code in a JSON string that was cut is not taken for the answer."""
    assert (
        parsed('{"code": "```json\\n{\\"a\\": 1}\\n```", "b": "c') == '{"code":"```json\\n{\\"a\\": 1}\\n```","b":"c"}'
    )


def test_a_list_is_taken_where_the_schema_has_one() -> None:
    """A schema that the job wrote itself may have a list at its root."""
    assert parsed("[1, 2", LIST) == "[1]"
    assert parsed("Numbers: [1, 2, 3].", LIST) == "[1,2,3]"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 123456789012345678901234567890}', '{"a":123456789012345678901234567890}'),
        ('{"a": 1, "a": 2}', '{"a":2}'),
        ('{"a": "\\ud800 \\u00e9"}', '{"a":"\ufffd é"}'),
        ('{"a": "\ud800"}', '{"a":"?"}'),
        ('{"a": "\\u0000"}', '{"a":"\\u0000"}'),
        ('{"a": 1.0}', '{"a":1.0}'),
        ('{"a": 1e400}', None),
        ('{"a": NaN}', None),
        ('{"a": -Infinity}', None),
        ('{"a": ' + "9" * 5_000 + "}", None),
        ('{"a":' * 199 + "1" + "}" * 199, '{"a":' * 199 + "1" + "}" * 199),
        ('{"a":' * 201 + "1" + "}" * 201, None),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, None),
        ('{"a": "' + "[" * 300 + '"}', '{"a":"' + "[" * 300 + '"}'),
    ],
)
def test_odd_values_are_kept_or_refused(content: str, expected: str | None) -> None:
    """Digits stay, of duplicate keys the last wins, and what JSON or a table has not is no answer."""
    assert parsed(content) == expected


def test_a_long_broken_text_is_not_mended() -> None:
    """Mending has a bound; what is JSON as it stands has none."""
    long = "x" * MAX_MENDED_CHARACTERS
    assert parsed(f'{{"a": "{long}"}}') == f'{{"a":"{long}"}}'
    assert parsed(f'{{"a": "{long}",}}') is None
    assert parsed(f'{{"a": "{long[20:]}",}}') == f'{{"a":"{long[20:]}"}}'
    assert parsed(f'Here: {{"a": "{long}"}}') == f'{{"a":"{long}"}}'
    assert parsed(f'```\n{{"a": "{long}"}}\n``` {{"a": 1,}}') == f'{{"a":"{long}"}}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "pattern"),
    [
        *[
            ("{", one)
            for one in ["1}{", "(“]`{", '["a" "b" ', '{"a', "{a,", '"', "'", "\\", "/*", "```{", "[{,:", "a:"]
        ],
        ("{", " "),
        ("{", "a"),
        ("{", '" \\'),
        ('{"a":' * 199, "]"),
        ('{"a":' * 199, "],"),
        ("[" * 150, "[1],"),
        ("[", "[" * 150 + "]" * 150 + ","),
        ("[" * 199, "1,"),
        ('{"a":[', '{"b":1},'),
        ("```{", "a:1,"),
        ("", "[] "),
        ("", "{a:} "),
        ("", "{" * 900 + "}" * 900),
        ('{"a":"', "x"),
        ('{"a":"b', '"' + " " * 50 + "z"),
        ("{a:/*", "* /"),
    ],
)
@pytest.mark.parametrize("length", [MAX_MENDED_CHARACTERS, 5 * MAX_MENDED_CHARACTERS])
def test_time_to_judge_grows_with_the_text(start: str, pattern: str, length: int) -> None:
    """Every other row waits while one is judged, so an eight times longer text takes no 64 times longer."""

    def processor_s(length: int) -> float:
        content = start + pattern * ((length - len(start)) // len(pattern))
        started = time.process_time()
        judged(content)
        return time.process_time() - started

    def is_linear() -> bool:
        short_s = min(processor_s(length // 8) for _ in range(3))
        return processor_s(length) < 30 * short_s + 0.01

    with undisturbed():  # as in a run: looking for garbage takes as long as the rest of the tests' objects make it
        assert any(is_linear() for _ in range(5))  # a busy machine may slow one of them down


def test_a_value_with_many_errors_is_told_one() -> None:
    """Looking for all errors of a long value takes long, and the model is told a few of them."""
    structure = Structure({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}})
    result = structure.judge(Completion(json.dumps({"a": ["x"] * 30_000})), BODY, Turn())
    assert isinstance(result, Turn)
    text = 'Your answer does not fit the JSON Schema: a[0]: "x" is not of type "integer"\n\nAnswer again'
    assert result.said[1]["content"].startswith(text)


# What is asked for again.


@pytest.mark.parametrize(
    ("limits", "more"),
    [
        ({"max_tokens": 100}, 400),
        ({"max_tokens": 10}, 266),
        ({"max_completion_tokens": 1_000}, 4_000),
        ({"max_tokens": 100, "max_completion_tokens": 200}, 800),
    ],
)
@pytest.mark.parametrize("content", ['{"label": "billing", "count": 1', '{"label": "bil', "", None])
def test_a_cut_text_is_asked_for_with_more_tokens(limits: dict[str, int], more: int, content: str | None) -> None:
    """What the limit cut off is not guessed while it can be had: the same is asked once more, with more room."""
    body = orjson.dumps({"model": "m", "messages": MESSAGES, **limits})
    result = judged(content, Turn(mode=1, usage=Usage(1)), body, finish_reason="length", usage=Usage(2))
    assert result == Turn(mode=1, max_tokens=more, usage=Usage(3))


def test_other_servers_say_otherwise_that_they_cut() -> None:
    """`max_tokens` is `length`; more tokens are no help where the context is full."""
    content = '{"label": "billing", "count": 1, "no'
    assert judged(content, body=LIMITED, finish_reason="max_tokens") == Turn(max_tokens=400)
    assert judged(content, body=LIMITED, finish_reason="model_length").parsed == GOOD


def test_a_cut_correction_keeps_what_was_said() -> None:
    """The messages of the correction stay when it is the second answer that is cut."""
    result = judged('{"label', Turn(said=CORRECTION), LIMITED, finish_reason="length")
    assert result == Turn(said=CORRECTION, max_tokens=400)


@pytest.mark.parametrize(
    ("body", "turn", "finish_reason"),
    [
        (LIMITED, Turn(max_tokens=400), "length"),
        (LIMITED, Turn(max_tokens=0), "length"),
        (LIMITED, Turn(), "stop"),
        (LIMITED, Turn(), None),
        (BODY, Turn(), "length"),
    ],
)
def test_a_cut_text_is_mended_when_no_more_can_be_had(body: bytes, turn: Turn, finish_reason: str | None) -> None:
    """More tokens are asked for once, and only where the body sets a limit and the endpoint says that it cut."""
    content = '{"label": "billing", "count": 1, "no'
    assert judged(content, turn, body, finish_reason=finish_reason).parsed == GOOD


def test_a_text_that_does_not_fit_is_corrected_once() -> None:
    """The model sees its own text, and what the validator says about it."""
    content = '{"label": "lost", "count": "1"}'
    result = judged(content, Turn(mode=1, max_tokens=400, usage=Usage(1)), usage=Usage(2))
    assert result == Turn(
        mode=1,
        said=(
            {"role": "assistant", "content": content},
            {
                "role": "user",
                "content": "Your answer does not fit the JSON Schema: "
                'label: "lost" is not one of "billing" or "shipping"; count: "1" is not of type "integer"'
                "\n\nAnswer again with only the corrected JSON.",
            },
        ),
        max_tokens=400,
        usage=Usage(3),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("I would say billing.", "the answer is not JSON"),
        ('{"label": "billing"', 'the whole: "count" is a required property'),
        ("```json\n[]\n```", 'the whole: [] is not of type "object"'),
        ('{"label": "billing", "count": NaN}', "the answer is not JSON"),
        ('{"label": "billing", "count": "1"}, as in [1].', 'count: "1" is not of type "integer"'),
        ('{"label": "billing", "count": "1",', 'count: "1" is not of type "integer"'),
    ],
)
def test_the_correction_says_what_is_wrong(content: str, reason: str) -> None:
    """What is no JSON is told apart from JSON that does not fit."""
    said = judged(content).said
    assert said[0] == {"role": "assistant", "content": content}
    assert said[1]["content"].startswith(f"Your answer does not fit the JSON Schema: {reason}\n")


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_an_empty_text_is_not_repeated_to_the_model(content: str | None) -> None:
    """Endpoints refuse empty messages of the assistant."""
    said = judged(content).said
    assert [message["role"] for message in said] == ["user"]
    assert "the answer is empty" in said[0]["content"]


def test_the_correction_names_nested_places_and_stays_short() -> None:
    """At most five errors, each with its path, in 1,000 characters, however long the values are."""
    structure = Structure({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}})
    content = json.dumps({"a": [1, *["x" * 500] * 20]})
    result = structure.judge(Completion(content), BODY, Turn())
    assert isinstance(result, Turn)
    text = result.said[1]["content"]
    assert text.startswith('Your answer does not fit the JSON Schema: a[1]: "xxx')
    assert "a[6]" not in text
    assert len(text) < 1_100


def test_lone_surrogates_are_not_said_again() -> None:
    """The correction can be sent whatever the model wrote."""
    turn = judged("no \ud800")
    assert applied(turn)["messages"][2]["content"] == "no ?"


# When the endpoint refuses the turn.


def test_a_cut_text_is_mended_when_more_tokens_are_refused() -> None:
    """What was cut is all that can be had, and its cost is in the turn already."""
    completion = Completion('{"label": "billing", "count": 1, "no', finish_reason="length", usage=Usage(2))
    turn = STRUCTURE.judge(completion, LIMITED, Turn(mode=1, usage=Usage(1)))
    assert turn == Turn(mode=1, max_tokens=400, usage=Usage(3))
    assert STRUCTURE.resume(completion, LIMITED, turn) == replace(completion, parsed=GOOD, usage=Usage(3))


def test_a_cut_text_is_corrected_when_more_tokens_are_refused() -> None:
    """What cannot be mended is asked for within the body's own limit."""
    completion = Completion('{"label": "billing"', finish_reason="length", usage=Usage(2))
    turn = STRUCTURE.resume(completion, LIMITED, Turn(mode=1, max_tokens=400, usage=Usage(3)))
    assert isinstance(turn, Turn)
    assert (turn.mode, turn.max_tokens, turn.usage) == (1, 0, Usage(3))
    assert turn.said[0] == {"role": "assistant", "content": '{"label": "billing"'}
    assert body_for(LIMITED, Turn(max_tokens=0)) is LIMITED


def test_a_cut_correction_is_mended_when_more_tokens_are_refused() -> None:
    """The second answer is judged as the last one."""
    turn = Turn(said=CORRECTION, max_tokens=400)
    mendable = Completion('{"label": "billing", "count": 1, "no', finish_reason="length")
    assert STRUCTURE.resume(mendable, LIMITED, turn) == replace(mendable, parsed=GOOD)
    failure = STRUCTURE.resume(Completion('{"label": "billing"', finish_reason="length"), LIMITED, turn)
    text = 'the answer does not fit the schema: the whole: "count" is a required property'
    assert failure == Failure("schema", text, status=200)


@pytest.mark.parametrize("content", ['{"label": "lost", "count": 1}', '{"label": "lost", "count": 1', "", None])
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
@pytest.mark.parametrize("before", [Turn(), Turn(mode=2), Turn(max_tokens=400)])
def test_a_correction_that_is_refused_ends_the_row(content: str | None, finish_reason: str, before: Turn) -> None:
    """Its text did not fit, and nothing else is to be had."""
    completion = Completion(content, finish_reason=finish_reason)
    turn = STRUCTURE.judge(completion, BODY, before)
    assert isinstance(turn, Turn)
    assert turn.said
    failure = STRUCTURE.resume(completion, BODY, turn)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status) == ("schema", 200)
    assert failure.message.startswith("the answer does not fit the schema: ")


# What is given up.


def test_a_second_text_that_does_not_fit_is_a_failure() -> None:
    """The row fails with what is wrong, and the schedule keeps the text."""
    result = judged('{"label": "lost", "count": 1}', Turn(said=CORRECTION))
    text = 'the answer does not fit the schema: label: "lost" is not one of "billing" or "shipping"'
    assert result == Failure("schema", text, status=200)


def test_a_filtered_text_is_not_corrected() -> None:
    """Asking again would only be filtered again."""
    result = judged('{"label": "lost", "count": 1', finish_reason="content_filter")
    assert isinstance(result, Failure)
    assert (result.kind, result.status, result.is_outcome_unknown) == ("schema", 200, False)


def test_a_failure_is_short() -> None:
    """The message fits into a cell."""
    structure = Structure({"type": "object", "additionalProperties": {"type": "integer"}})
    content = json.dumps({"k" * 1_000 + str(at): "x" * 1_000 for at in range(10)})
    result = structure.judge(Completion(content), BODY, Turn(said=CORRECTION))
    assert isinstance(result, Failure)
    assert len(result.message) <= 2_000


# Schemas.


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "wat"}, 'is not a valid JSON Schema (type: "wat" is not valid under any'),
        ({"properties": {"a": {"pattern": "("}}}, 'properties.a.pattern: "(" is not a "regex"'),
        ({"$ref": "#/$defs/none"}, "Pointer '/$defs/none' does not exist"),
        ({"$ref": "https://example.com/schema.json"}, "is another document, and none is fetched"),
        ({"$ref": "file:///etc/passwd"}, "is another document, and none is fetched"),
        ({"$ref": "other.json"}, "what it refers to must stand in it, under $defs"),
        ({"$schema": "https://example.com/meta"}, "Unknown meta-schema"),
        (5, '5 is not of types "boolean", "object"'),
        (None, "is not a valid JSON Schema"),
        ({"type": "object", "x": object()}, "is not a valid JSON Schema (Unsupported type"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, text: str) -> None:
    """A schema is checked before any row is asked, and nothing that it names is fetched."""
    with pytest.raises(ValueError, match=r".+") as caught:
        Structure(schema)
    assert text in str(caught.value)


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", None])
def test_formats_are_notes_in_every_draft(draft: str | None) -> None:
    """An endpoint promises types and names; a date that is none is left to the user."""
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    structure = Structure({"$schema": draft, **schema} if draft else schema)
    assert parsed('{"day": "tomorrow"}', structure) == '{"day":"tomorrow"}'


def test_a_recursive_schema_is_followed() -> None:
    """References within the schema are known."""
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    structure = Structure(node)
    assert parsed('{"next": {"next": null}}', structure) == '{"next":{"next":null}}'
    assert parsed('{"next": {"last": null}}', structure) is None


# Endpoints that refuse.


@pytest.mark.parametrize(
    ("message", "mode"),
    [
        ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.", 1),
        ("Invalid schema for response_format 'response': 'uniqueItems' is not permitted.", 1),
        ("This model does not support response format `json_schema`.", 1),
        ("This response_format type is unavailable now", 1),
        ("'response_format.type' must be 'json_object' or 'text'", 1),
        ("Structured outputs are not supported by this model", 1),
        ("Unknown parameter: 'response_format'.", 1),
        ("Unrecognized request argument supplied: response_format", 1),
        ("response_format is not supported", 1),
        ("This model does not support Response Format.", 1),
        ('[{"type":"extra_forbidden","loc":["body","response_format"],"msg":"Extra inputs are not permitted"}]', 1),
    ],
)
def test_a_refused_format_is_asked_for_otherwise(message: str, mode: int) -> None:
    """A schema that is refused goes into the prompt, beside json_object."""
    turn = Turn(said=CORRECTION, usage=Usage(1))
    assert STRUCTURE.fallback(Failure("bad_request", message, 400), turn) == replace(turn, mode=mode)


@pytest.mark.parametrize(
    ("failure", "mode"),
    [
        (Failure("bad_request", "response_format must be text", 422), 1),
        (Failure("bad_request", "no", 400, code="unsupported_response_format"), 1),
        (Failure("bad_request", "no", 400, param="response_format"), 1),
        (Failure("server", "json_schema: not implemented", 501), 1),
    ],
)
def test_a_refusal_may_have_other_statuses(failure: Failure, mode: int) -> None:
    """Other servers say it with 422 or 501, in the code, or as the parameter."""
    assert STRUCTURE.fallback(failure, Turn()) == Turn(mode=mode)


def test_the_ladder_has_an_end() -> None:
    """After json_object comes the prompt alone, and after that nothing."""
    refusal = Failure("bad_request", "response_format json_object is not supported", 400)
    assert STRUCTURE.fallback(refusal, Turn(mode=1)) == Turn(mode=2)
    assert STRUCTURE.fallback(refusal, Turn(mode=2)) is None


@pytest.mark.parametrize(
    "failure",
    [
        Failure("bad_request", "temperature must be below 2", 400),
        Failure("bad_request", "x" * 300 + " response_format", 400),
        Failure("server", "json_schema engine crashed", 500),
        Failure("rate_limit", "too many requests with response_format", 429),
        Failure("not_found", "Model not found: json_schema", 404),
        Failure("content_filter", "response_format", 400),
        Failure("timeout", "no whole reply within 120 s"),
        Failure("bad_request", "response_format", 418),
        Failure("bad_request", "response_format", 404),
        Failure("context_length", "response_format: too long", 400),
    ],
)
def test_other_failures_are_the_rows_own(failure: Failure) -> None:
    """What does not speak of the format, in the provider's own sentence, changes nothing."""
    assert STRUCTURE.fallback(failure, Turn()) is None


# Bodies.


@pytest.mark.parametrize("turn", [Turn(), Turn(usage=Usage(1)), Turn(max_tokens=0)])
def test_a_turn_that_adds_nothing_leaves_the_body(turn: Turn) -> None:
    """The bytes are the same ones, not a copy."""
    assert body_for(BODY, turn) is BODY


PROMPT = (
    "Answer with one JSON object that fits this JSON Schema, and with nothing else:\n" + orjson.dumps(SCHEMA).decode()
)


@pytest.mark.parametrize(("mode", "format_there"), [(1, {"response_format": {"type": "json_object"}}), (2, {})])
def test_the_schema_goes_into_the_prompt(mode: int, format_there: dict[str, Any]) -> None:
    """The end of the user's message has the schema; nothing else of the body changes."""
    asked = {"role": "user", "content": f"Where is my parcel?\n\n{PROMPT}"}
    assert applied(Turn(mode=mode)) == {"model": "m", "messages": [MESSAGES[0], asked], **format_there}


def test_the_schema_stands_behind_the_parts() -> None:
    """In a list of parts it is one more at the end, so that images keep their places."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": "A"},
    ]
    body = orjson.dumps({"model": "m", "messages": messages, "response_format": FORMAT})
    asked = [{"type": "text", "text": "What is this?"}, image, {"type": "text", "text": PROMPT}]
    expected = [messages[0], {"role": "user", "content": asked}, messages[2]]
    assert applied(Turn(mode=1), body)["messages"] == expected


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "Label."}], [{"role": "user", "content": None}]]
)
def test_the_schema_is_a_message_when_the_user_said_nothing(messages: list[Any]) -> None:
    """Without a text of the user to add to, the schema is a message of its own at the end."""
    body = orjson.dumps({"model": "m", "messages": messages, "response_format": FORMAT})
    assert applied(Turn(mode=2), body)["messages"] == [*messages, {"role": "user", "content": PROMPT}]


def test_what_was_said_stands_at_the_end() -> None:
    """The text that did not fit and its correction follow the prompt with the schema."""
    said = ({"role": "assistant", "content": "no"}, {"role": "user", "content": "again"})
    messages = applied(Turn(mode=2, said=said))["messages"]
    assert messages[1]["content"].endswith(PROMPT)
    assert messages[2:] == list(said)
    assert applied(Turn(said=said))["response_format"] == FORMAT


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_larger_limit_takes_the_place_of_the_bodys(name: str) -> None:
    """Whichever name the body has is kept; order and the rest stay."""
    body = orjson.dumps({"model": "m", name: 10, "messages": MESSAGES, "response_format": FORMAT})
    assert body_for(body, Turn(max_tokens=266)) == body.replace(b":10,", b":266,")


def test_schema_of_finds_the_schema_of_a_format() -> None:
    """Other formats have none."""
    assert schema_of(FORMAT) == SCHEMA
    assert [schema_of(value) for value in (None, {"type": "json_object"}, {"json_schema": 1}, "text")] == [None] * 4


# Sums.


def test_added_keeps_what_nobody_reports() -> None:
    """None is not 0: what no turn reported is not known."""
    assert added(Usage(), Usage()) == Usage()
    assert added(Usage(1, None, 3), Usage(2, 0, None)) == Usage(3, 0, 3)


def test_added_costs_are_known_only_together() -> None:
    """The cost of two replies is not known where that of one is not; an attempt without a reply cost nothing."""
    assert added(Usage(1, cost_usd=0.25), Usage(2, cost_usd=0.5)) == Usage(3, cost_usd=0.75)
    assert added(Usage(1, cost_usd=0.25), Usage(2)) == added(Usage(1), Usage(2, cost_usd=0.25)) == Usage(3)
    assert added(Usage(1, cost_usd=0.25), NO_USAGE) == added(NO_USAGE, Usage(1, cost_usd=0.25))


COUNTS = st.none() | st.integers(0, 2**40)
SUMMABLE = st.none() | st.integers(0, 2**20).map(float)  # whole dollars, which floats sum exactly
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, SUMMABLE)


@given(USAGES, USAGES, USAGES)
def test_added_does_not_mind_the_order(first: Usage, second: Usage, third: Usage) -> None:
    """Turns may be summed in any order."""
    assert added(added(first, second), third) == added(third, added(second, first))


# All texts.

VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
PIECES = st.sampled_from(
    [
        *"{}[]\":,\\\n '`#/",
        "```json\n",
        "<think>",
        "</think>",
        '"label"',
        '"billing"',
        '"count"',
        "1",
        "12",
        "null",
        GOOD,
    ]
)
TEXTS = st.text(st.characters(), max_size=40) | st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)
TURNS = st.sampled_from([Turn(), Turn(said=CORRECTION), Turn(max_tokens=400), Turn(said=CORRECTION, max_tokens=400)])


@given(TEXTS, TURNS, st.sampled_from(["stop", "length", "content_filter", None]), st.sampled_from([BODY, LIMITED]))
def test_judge_never_raises_and_takes_only_what_fits(
    content: str, turn: Turn, finish_reason: str | None, body: bytes
) -> None:
    """Any text is taken, asked for again or given up; what is taken fits, and can be stored and sent."""
    result = STRUCTURE.judge(Completion(content, finish_reason=finish_reason), body, turn)
    if isinstance(result, Completion):
        assert result.parsed is not None
        assert VALIDATOR.is_valid(json.loads(result.parsed))
        assert json.loads(result.parsed)["label"] in ("billing", "shipping")
        orjson.dumps(result.parsed)
    elif isinstance(result, Turn):
        assert applied(result, body)["messages"][:2] == MESSAGES
        assert result != turn
    else:
        assert result.kind == "schema"


@given(st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join))
def test_what_is_taken_of_any_text_is_json(content: str) -> None:
    """An open schema takes any object, and it is always JSON without NaN."""
    text = parsed(content)
    if text is not None:
        assert isinstance(json.loads(text, parse_constant=pytest.fail), dict)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(), VALUES), st.sampled_from([None, 2]), st.booleans())
def test_every_json_object_is_taken_as_it_is(value: dict[str, Any], indent: int | None, is_fenced: bool) -> None:
    """JSON in, the same JSON out, however it is laid out and fenced."""
    text = json.dumps(value, indent=indent)
    result = parsed(f"```json\n{text}\n```" if is_fenced and "```" not in text else text)
    assert result is not None
    assert json.loads(result) == value


@pytest.mark.slow
@given(st.dictionaries(st.text(), VALUES, min_size=1), st.data())
def test_a_cut_object_keeps_only_what_was_whole(value: dict[str, Any], data: st.DataObject) -> None:
    """Wherever a text is cut, no scalar but a text is changed, and no key is invented."""
    whole = json.dumps(value)
    cut = whole[: data.draw(st.integers(1, len(whole)))]
    result = parsed(cut)
    if result is not None:
        assert is_part(json.loads(result), value)


def is_part(part: Any, whole: Any) -> bool:
    """Tell whether a value is the beginning of another."""
    if isinstance(whole, dict):
        return isinstance(part, dict) and all(key in whole and is_part(part[key], whole[key]) for key in part)
    if isinstance(whole, list):
        return isinstance(part, list) and all(map(is_part, part, whole)) and len(part) <= len(whole)
    if isinstance(whole, str):
        return isinstance(part, str) and (whole.startswith(part.removesuffix("\ufffd")) or part == whole)
    return bool(part == whole)
