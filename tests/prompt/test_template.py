"""A job's `request` and a row's values -> the body: types, conversations, columns, errors, and the sandbox."""

import datetime
import decimal
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError

from batchchat.errors import TemplateError
from batchchat.prompt.environment import RowEnvironment
from batchchat.prompt.json_text import as_text, json_value, to_json
from batchchat.prompt.template import RequestTemplate, compile_request, nearest

D = decimal.Decimal
NOON = datetime.datetime(2026, 1, 2, 12, 0, 5, tzinfo=datetime.UTC)
FULL = "`messages` must be a list with at least one message, each with a role and a content"


def _compile(content: object, columns: Sequence[str], **parameters: object) -> RequestTemplate:
    return compile_request({"model": "m", "messages": [{"role": "user", "content": content}], **parameters}, columns)


def _content(content: object, values: Mapping[str, Any]) -> Any:
    """Return what the message's content becomes for a row."""
    return _compile(content, list(values)).render(values)["messages"][0]["content"]


def _parameter(text: str, values: Mapping[str, Any]) -> Any:
    """Return what a parameter becomes for a row."""
    return _compile("hi", list(values), p=text).render(values)["p"]


def _messages(messages: object, values: Mapping[str, Any]) -> Any:
    return compile_request({"model": "m", "messages": messages}, list(values)).render(values)["messages"]


def _error(content: object, columns: Sequence[str] = ("subject", "body", "x y")) -> tuple[int, str]:
    with pytest.raises(TemplateError) as caught:
        _compile(content, columns)
    assert caught.value.path == ("messages", 0, "content")
    return caught.value.line, caught.value.text


# natural types

VALUES = [5, 1.5, True, None, "text", "", [1, "a"], {"a": {"b": 1}}, D("1.10"), NOON, b"raw"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("text", ["{{ x }}", "{{x}}", "{{- x -}}", " {{ x }}\n", '{{ row["x"] }}', "{{ row.x }}"])
def test_bare_expression_keeps_its_type(text: str, value: object) -> None:
    """A parameter that is one expression is the value itself, blanks around it or not."""
    found = _parameter(text, {"x": value})
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ n + 1 }}", 4),
        ("{{ -n }}", -3),
        ("{{- -n -}}", -3),
        ("{{ n * 0.5 }}", 1.5),
        ("{{ n > 2 }}", True),
        ("{{ [n, none] }}", [3, None]),
        ("{{ {'a': n} }}", {"a": 3}),
        ("{{ 'a' if n > 5 else 'b' }}", "b"),
        ("{{ n }}{{ n }}", "33"),
        ("{{ n }} x", "3 x"),
        ("{% if n %}{{ n }}{% endif %}", "3"),
        ("{{ n }}{# note #}", "3"),
        ("{{ '}}' }}", "}}"),
    ],
)
def test_expression_gives_its_value_else_text(text: str, value: object) -> None:
    """One expression gives its value; anything more is text."""
    found = _parameter(text, {"n": 3})
    assert (found, type(found)) == (value, type(value))


def test_any_string_of_the_request_is_a_template() -> None:
    """Nested lists and mappings are rendered in place; keys, numbers and plain texts stay as they are."""
    request = {
        "model": "{{ m }}",
        "messages": [{"role": "user", "content": "c"}],
        "a": {"{{ m }}": "{{ n }}", "b": [1, "{{ n }}", {"c": "-{{ n }}-"}, None], "d": "plain"},
    }
    assert compile_request(request, ["m", "n"]).render({"m": "gpt", "n": 3}) == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "c"}],
        "a": {"{{ m }}": 3, "b": [1, 3, {"c": "-3-"}, None], "d": "plain"},
    }


def test_rendering_changes_nothing() -> None:
    """A second row gets its own body; the job's request and the row stay as they were."""
    request = {"model": "m", "messages": [{"role": "user", "content": "{{ x }}"}], "stop": ["{{ x }}"]}
    template = compile_request(request, ["x"])
    row = {"x": "one"}
    assert [template.render(row)["stop"], template.render({"x": "two"})["stop"]] == [["one"], ["two"]]
    assert (row, request["stop"]) == ({"x": "one"}, ["{{ x }}"])


# content

IN_TEXT = [
    (5, "5"),
    (1.5, "1.5"),
    (None, ""),
    ("", ""),
    ("é 😀\r\n", "é 😀\r\n"),
    (D("1.10"), "1.10"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (NOON, "2026-01-02T12:00:05+00:00"),
    (datetime.time(1, 2), "01:02:00"),
    (b"raw \xc3\xa9", "raw é"),
    ({"a": [1, None], "é": "<&>"}, '{"a": [1, null], "é": "<&>"}'),
    ({"d": datetime.date(2026, 1, 2), "n": D("1.50"), "i": D("2.0"), "b": b"x"}, None),
]


@pytest.mark.parametrize(("value", "text"), IN_TEXT)
def test_content_is_always_text(value: object, text: str | None) -> None:
    """The API takes no number and no null as a content: null is nothing, nested values are JSON, dates are ISO 8601."""
    text = '{"d": "2026-01-02", "n": 1.5, "i": 2, "b": "x"}' if text is None else text
    assert _content("{{ x }}", {"x": value}) == text
    assert _content("<{{ x }}>", {"x": value}) == f"<{text}>"


def test_list_inside_text_is_json() -> None:
    """A list among words is written as a model reads it."""
    assert _content("tags: {{ x }}", {"x": ["a", None, "é"]}) == 'tags: ["a", null, "é"]'


def test_list_of_parts_stays_a_list() -> None:
    """Content parts from a column are the content."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "http://h/i.png"}}]
    assert _content("{{ x }}", {"x": parts}) == parts


@pytest.mark.parametrize("value", [["a", "b"], [1, 2], []])
def test_list_that_is_no_parts_is_text(value: list[object]) -> None:
    """A list of tags is no content that an endpoint takes."""
    assert isinstance(_content("{{ x }}", {"x": value}), str)


def test_text_of_a_part_is_text() -> None:
    """Inside written parts, `text` is text and the rest keeps its type."""
    parts = [
        {"type": "text", "text": "{{ n }}"},
        {"type": "image_url", "image_url": {"url": "{{ u }}", "n": "{{ n }}"}},
    ]
    assert _content(parts, {"n": 3, "u": "http://h/i.png"}) == [
        {"type": "text", "text": "3"},
        {"type": "image_url", "image_url": {"url": "http://h/i.png", "n": 3}},
    ]


def test_list_as_text_of_a_part_is_text() -> None:
    """A part's text is never a list."""
    assert _content([{"type": "text", "text": "{{ x }}"}], {"x": ["a"]}) == [{"type": "text", "text": '["a"]'}]


def test_line_ends_and_blanks_stay() -> None:
    """A prompt keeps the blanks and the last line end that its author wrote."""
    assert _content(" {{ x }}\n\n", {"x": "a"}) == " a\n\n"


@pytest.mark.parametrize("text", ["{{ x }} {{ y }}", "{{ x }}", "{{ x }}{{ row.y }}"])
def test_value_like_a_template_is_data(text: str) -> None:
    """What a customer writes is never compiled, substituted or taken for a brace of the job."""
    hostile = '{{ y }} {% raw %} ${HOME} {x} {{ "".__class__ }} {#'
    assert _content(text, {"x": hostile, "y": "2"}).startswith(hostile)


@given(st.text())
def test_any_text_comes_out_unchanged(value: str) -> None:
    """Every character of a cell reaches the message, alone and among other text."""
    assert _content("{{ x }}", {"x": value}) == value
    assert _content("<{{ x }}|{{ row['x'] }}>", {"x": value}) == f"<{value}|{value}>"


def test_binary_that_is_no_text_is_refused() -> None:
    """Bytes of a picture are no prompt; the message has their number and not the bytes."""
    message = "a binary value of 2 bytes is not UTF-8 text, so it cannot stand in a prompt"
    for content in ("{{ x }}", "<{{ x }}>", "{{ {'a': x} | tojson }}"):
        with pytest.raises(ValueError, match=message):
            _content(content, {"x": b"\xff\xfe"})


# conversations

CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ x }}", CHAT),
        (" {{ x }}\n", CHAT),
        ("{{ x }}", '[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]'),
        ("{{ x | tojson }}", CHAT),
        ("{% if x %}{{ x }}{% endif %}", CHAT),
        ("{{ x[:1] + [{'role': 'user', 'content': 'u'}] }}", CHAT),
    ],
)
def test_conversation_comes_from_a_column(text: str, value: object) -> None:
    """A list of structs and the JSON text of one are both a conversation."""
    assert _messages(text, {"x": value}) == CHAT


def test_nulls_of_a_struct_are_left_out() -> None:
    """Parquet gives every message every field; an endpoint refuses most of them as null, but not `content`."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "name": None}
    answer = {"role": "tool", "content": "ok", "tool_call_id": "1", "tool_calls": None}
    assert _messages("{{ x }}", {"x": [call, answer]}) == [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "ok", "tool_call_id": "1"},
    ]


def test_nulls_of_a_part_are_left_out() -> None:
    """The same holds for content parts: a text part of a column has an `image_url` of null."""
    parts = [{"type": "text", "text": "t", "image_url": None}]
    assert _messages("{{ x }}", {"x": [{"role": "user", "content": parts}]}) == [
        {"role": "user", "content": [{"type": "text", "text": "t"}]}
    ]


@pytest.mark.parametrize("value", [None, [], "[]", "5", '"text"', '["a"]', '{"role": "user"}', 5, ["a"], {"role": "u"}])
def test_value_that_is_no_conversation_is_refused(value: object) -> None:
    """The row fails; nothing is sent for it."""
    with pytest.raises(ValueError, match="^" + FULL + "$"):
        _messages("{{ x }}", {"x": value})


@pytest.mark.parametrize("value", [None, "", 5, ["m"]])
def test_model_must_be_text(value: object) -> None:
    """A row without a model is a row's failure that shows what the row gave."""
    template = compile_request({"model": "{{ x }}", "messages": CHAT}, ["x"])
    with pytest.raises(ValueError, match="`model` must be text; this row gives") as caught:
        template.render({"x": value})
    assert str(caught.value) == f"`model` must be text; this row gives {value!r}"


# columns


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("plain", set()),
        ("{{ a }}", {"a"}),
        ("{{ row['x y'] }} {{ row.a }}", {"x y", "a"}),
        ("{% for q in a %}{{ q }}{{ b }}{% endfor %}", {"a", "b"}),
        ("{% if b %}{% set a = 1 %}{% endif %}{{ a }}", {"a", "b"}),
        ("{% set q = a %}{{ q }}", {"a"}),
        ("{% macro m(q) %}{{ q }}{{ b }}{% endmacro %}{{ m(a) }}", {"a", "b"}),
        ("{{ a if a is defined else b }}", {"a", "b"}),
        ("{# {{ b }} #}{{ a }}", {"a"}),
        ("{{ loop }}", {"loop"}),
        ("{{ row }}", None),
        ("{{ row | length }}", None),
        ("{{ row[a] }}", None),
        ("{% for q in row %}{{ q }}{% endfor %}", None),
        ("{{ row.a }}{{ row }}", None),
    ],
)
def test_columns_are_those_that_are_read(content: str, columns: set[str] | None) -> None:
    """Only they are read from the file; None where the whole row may be."""
    found = _compile(content, ["a", "b", "x y", "loop"]).columns
    assert found == (None if columns is None else frozenset(columns))


def test_columns_are_those_of_the_whole_request() -> None:
    """Every string counts, wherever it stands."""
    template = compile_request(
        {"model": "{{ a }}", "messages": [{"role": "{{ b }}", "content": "{{ c }}"}], "p": ["{{ d }}"]}, list("abcde")
    )
    assert template.columns == frozenset("abcd")


@pytest.mark.parametrize("name", ["range", "dict", "cycler", "joiner", "namespace"])
def test_column_wins_over_a_global(name: str) -> None:
    """A column called `range` is a column: without it in `columns`, the template prints a Python class instead."""
    assert _compile(f"{{{{ {name} }}}}", [name]).columns == frozenset({name})


def test_columns_alone_give_the_same_body() -> None:
    """A row that was read with only these columns asks the same as the whole row."""
    row = {"a": "1", "b": ["2"], "c": "3", "x y": 4}
    template = _compile("{{ a }}{% for q in b %}{{ q }}{% endfor %}{{ row['x y'] }}", list(row))
    assert template.columns is not None
    assert template.render({name: row[name] for name in template.columns}) == template.render(row)


# errors before the first row

COLUMNS = "Columns: body, subject, x y"


@pytest.mark.parametrize(
    ("content", "line", "text"),
    [
        ("{{ subjct }}", 1, f"the input has no column 'subjct'; did you mean 'subject'? {COLUMNS}"),
        ("a\n\n{{ zzz }}", 3, f"the input has no column 'zzz'; {COLUMNS}"),
        ("\n{{ row['x z'] }}", 2, f"the input has no column 'x z'; did you mean 'x y'? {COLUMNS}"),
        ("{{ row.bodi }}", 1, f"the input has no column 'bodi'; did you mean 'body'? {COLUMNS}"),
        ("{{ zzz | default('') }}", 1, f"the input has no column 'zzz'; {COLUMNS}"),
        ("{% if zzz is defined %}a{% endif %}", 1, f"the input has no column 'zzz'; {COLUMNS}"),
        ("{{ body if body else zzz }}", 1, f"the input has no column 'zzz'; {COLUMNS}"),
        ("{{ lipsum() }}", 1, f"the input has no column 'lipsum'; {COLUMNS}"),
    ],
)
def test_unknown_column_is_named(content: str, line: int, text: str) -> None:
    """With its line, the nearest column and what there is; also where the branch would not be taken."""
    assert _error(content) == (line, text)


def test_many_columns_are_not_all_listed() -> None:
    """A table of 10,000 columns does not fill the screen."""
    columns = [f"c{number:02}" for number in range(30)]
    shown = ", ".join(columns[:20])
    assert _error("{{ zzz }}", columns) == (1, f"the input has no column 'zzz'; Columns: {shown}, ...")
    assert nearest("x", []) == "; Columns: (none)"


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("{{ subject", 1, "unexpected end of template, expected 'end of print statement'."),
        ("a\n{{ subject }", 2, "unexpected '}'"),
        ("a\nb\n{% if body %}", 3, None),
        ("a\n{% foo %}", 2, "Encountered unknown tag 'foo'."),
        ("a\n{{ body | nofilter }}", 2, "No filter named 'nofilter'."),
        ("{{ body is notest }}", 1, "No test named 'notest'."),
        ("{{ 1 + }}", 1, "unexpected 'end of print statement'"),
        ("{{ subject body }}", 1, "expected token 'end of print statement', got 'body'"),
        ("{# note", 1, "Missing end of comment tag"),
        ("{{ body | random }}", 1, "No filter named 'random'."),
        ("{{ body | attr('upper') }}", 1, "No filter named 'attr'."),
    ],
)
def test_syntax_error_has_its_line(content: str, line: int, reason: str | None) -> None:
    """The line is that of the text, and Jinja's reason follows."""
    found, text = _error(content)
    assert found == line
    assert text.startswith("not a valid template: ")
    assert text.endswith(f" (line {line} of the text)")
    assert reason is None or text == f"not a valid template: {reason} (line {line} of the text)"


@pytest.mark.parametrize(
    "content", ["{{ " + "(" * 400 + "1" + ")" * 400 + " }}", "{% for q in [1] %}" * 30 + "{% endfor %}" * 30]
)
def test_template_too_deep_for_python_is_an_error(content: str) -> None:
    """What Jinja compiles and Python does not is the template's problem as well."""
    assert _error(content) == (1, "not a valid template: it is nested too deeply")


END = "for the braces themselves"


@pytest.mark.parametrize(
    ("content", "line", "wanted"),
    [
        ("{subject}", 1, "subject"),
        ("Dear {subject},\n{body}", 1, "subject"),
        ("a\n({body})", 2, "body"),
        ("{{ subject }}\n\n{body}", 3, "body"),
    ],
)
def test_single_braces_are_explained(content: str, line: int, wanted: str) -> None:
    """Oxen's own spelling is no template here; the message has the right one."""
    assert _error(content) == (
        line,
        f'`{{{wanted}}}` is not a template; write `{{{{ {wanted} }}}}`, or `{{{{ "{{{wanted}}}" }}}}` {END}',
    )


def test_single_braces_with_a_space_are_explained() -> None:
    """A column that is no identifier is written through `row`."""
    assert _error("{x y}")[1].startswith('`{x y}` is not a template; write `{{ row["x y"] }}`')


@pytest.mark.parametrize(
    "content", ['{"body": 1}', "{other}", "${body}", "\\{body}", "{ body }", "{body", "{{ '{body}' }}"]
)
def test_braces_around_no_column_are_text(content: str) -> None:
    """JSON examples, LaTeX and shell in a prompt are what they are."""
    expected = "{body}" if content.startswith("{{") else content
    assert _content(content, {"body": "b"}) == expected


def test_error_has_the_path_of_its_value() -> None:
    """Keys and positions lead to the string."""
    with pytest.raises(TemplateError) as caught:
        compile_request({"model": "m", "messages": CHAT, "tools": [{"a": "{{ zzz }}"}]}, ["a"])
    assert caught.value.path == ("tools", 0, "a")


def test_name_set_in_a_branch_is_no_column() -> None:
    """A variable of one branch may be used in that branch."""
    assert _content("{% if x %}{% set q = x | upper %}{{ q }}{% endif %}", {"x": "a"}) == "A"


# the sandbox


@pytest.mark.parametrize(
    "expression",
    [
        "x.__class__",
        "x['__class__']",
        "x.__class__.__mro__[1].__subclasses__()",
        "''.__class__",
        "cycler.__init__.__globals__",
        "'{0.__class__}'.format(x)",
        "'{a.__class__}'.format_map({'a': x})",
        "items.append(1)",
        "items.pop()",
        "struct.update({'a': 2})",
        "struct.clear()",
    ],
)
@pytest.mark.parametrize("form", ["{{ %s }}", "a {{ %s }}", "{%% if %s %%}{%% endif %%}"])
def test_template_cannot_reach_python(form: str, expression: str) -> None:
    """Neither Python's insides nor the row itself can be got at."""
    row = {"x": "a", "items": [1], "struct": {"a": 1}}
    template = _compile(form % expression, list(row))
    with pytest.raises(SecurityError):
        template.render(row)
    assert row == {"x": "a", "items": [1], "struct": {"a": 1}}


@pytest.mark.parametrize(
    ("content", "tag"),
    [
        ("a\n{% include 'x' %}", "include"),
        ("a\n{% import x as y %}", "import"),
        ("a\n{% from 'x' import y %}", "from"),
        ("a\n{% extends 'x' %}", "extends"),
        ("a\n{% if x %}{% include x ignore missing %}{% endif %}", "include"),
    ],
)
def test_no_file_is_read(content: str, tag: str) -> None:
    """There is nowhere to load a template from; that is said before the first row."""
    message = f"the tag `{tag}` reads another file, which templates cannot; write all of the text here"
    assert _error(content, ["x"]) == (2, message)


@pytest.mark.parametrize("name", ["items", "keys", "values", "get", "copy", "pop", "update", "__class__"])
def test_struct_field_wins_over_a_method(name: str) -> None:
    """A field called `items` is data, at any depth and for `map` and `join` too."""
    struct = {name: "mine"}
    assert _content(f"{{{{ s.{name} }}}}", {"s": struct}) == "mine"
    assert _content(f"<{{{{ s.a.{name} }}}}>", {"s": {"a": struct}}) == "<mine>"
    assert _content(f"{{{{ row.{name} }}}}", struct) == "mine"
    assert _content(f"{{{{ s | map(attribute='{name}') | join }}}}", {"s": [struct]}) == "mine"


@pytest.mark.parametrize("expression", ["s.nope", "s['nope']", "l[5]", "z.a", "z.a.b", "s.a.b"])
@pytest.mark.parametrize("form", ["{{ %s }}", "a {{ %s }}"])
def test_missing_field_is_an_error(form: str, expression: str) -> None:
    """What is not there is not silently empty."""
    with pytest.raises(jinja2.UndefinedError):
        _content(form % expression, {"s": {"a": 1}, "l": [1], "z": None})


def test_missing_field_may_have_a_default() -> None:
    """`default` is the way to say that a field may be missing."""
    assert _content("{{ s.nope | default('-') }}{{ z or 'none' }}", {"s": {}, "z": None}) == "-none"


# determinism


@pytest.mark.parametrize(
    "content", ["{{ x.upper }}", "a{{ x.upper }}", "{{ s.values }}", "{{ l | map('upper') }}", "a{{ l | select }}"]
)
def test_python_object_is_no_text(content: str) -> None:
    """A method or a generator in a prompt is a mistake, and its address makes every request new."""
    with pytest.raises((TypeError, ValueError)):
        _content(content, {"x": "a", "s": {"a": 1}, "l": ["a"]})


@pytest.mark.parametrize("expression", ["t.now()", "t.utcnow()", "t.today()", "t.date().today()"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_clock_cannot_be_read(expression: str) -> None:
    """A prompt with the time in it has another key when the output is written: the answer is paid for and lost."""
    with pytest.raises(SecurityError):
        _content(f"{{{{ {expression} }}}}", {"t": NOON})


def test_environment_has_no_chance_in_it() -> None:
    """What draws lots is not there, whatever Jinja brings."""
    environment = RowEnvironment()
    left_out = {"random", "attr", "pprint", "safe", "urlize", "wordwrap", "xmlattr"}
    assert left_out & set(environment.filters) == set()
    assert set(environment.globals) == {"range", "dict", "cycler", "joiner", "namespace"}


def test_state_does_not_pass_between_rows() -> None:
    """A variable that is set for one row is not there for the next."""
    template = _compile("{% set c = cycler(1, 2) %}{{ c.next() }}{{ x }}", ["x"])
    assert [template.render({"x": x})["messages"][0]["content"] for x in "aba"] == ["1a", "1b", "1a"]


# plain.py by itself


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": "é<&>'"}, '{"a": "é<&>\'"}'),
        ([D("2"), D("2.50"), D("0.1")], "[2, 2.5, 0.1]"),
        (
            [NOON, datetime.date(2026, 1, 2), datetime.time(1, 2)],
            '["2026-01-02T12:00:05+00:00", "2026-01-02", "01:02:00"]',
        ),
        ([datetime.timedelta(minutes=1.5), b"x", None, True], '[90.0, "x", null, true]'),
    ],
)
def test_json_is_readable(value: object, text: str) -> None:
    """No escapes beyond JSON's own; dates, decimals, durations and bytes have their natural form."""
    assert to_json(value) == text
    assert RowEnvironment().from_string("{{ x | tojson }}").render(x=value) == text


def test_json_can_be_indented() -> None:
    """`tojson(indent=2)` is Jinja's own."""
    assert RowEnvironment().from_string("{{ x | tojson(indent=2) }}").render(x={"a": 1}) == '{\n  "a": 1\n}'


def test_as_text_leaves_numbers_to_jinja() -> None:
    """Only what Python would print oddly is changed."""
    assert (as_text(5), as_text(True), as_text(D("1.50")), as_text((1, 2))) == (5, "true", D("1.50"), "[1, 2]")


def test_json_value_knows_what_orjson_does_not() -> None:
    """Durations are seconds; what has no JSON is refused by its type."""
    assert json_value(datetime.timedelta(seconds=90)) == 90.0
    assert json_value(b"x") == "x"
    with pytest.raises(ValueError, match="NaN is not a number that JSON has"):
        json_value(D("NaN"))
    with pytest.raises(TypeError, match="a value of type set cannot stand in a request"):
        json_value({1})
