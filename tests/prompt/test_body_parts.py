"""Templates of nothing but text and columns: what they make without Jinja is what Jinja makes of them."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.prompt.body_parts import Piece, plain_pieces
from batchchat.prompt.environment import MAX_CHARACTERS, RowEnvironment
from batchchat.prompt.template import compile_request
from batchchat.read.rows import number

COLUMNS = ("x", "order id", "range", "items", "self", "row")
VALUES = (
    st.text()
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=3)
    | st.decimals()
    | st.dates()
    | st.timedeltas()
    | st.lists(st.text() | st.none(), max_size=3)
    | st.dictionaries(st.text(), st.integers(), max_size=2)
    | st.just(number("3.10"))
)
WRITTEN = st.sampled_from(
    [
        "{{ x }}",
        "{{x}}",
        "{{- x -}}",
        '{{ row["order id"] }}',
        "{{ row.items }}",
        "{{ range }}",
        "{# note #}",
        " \n",
        "text",
    ]
)


def pieces(text: str) -> list[Piece] | None:
    """Return the pieces of a template over the columns."""
    return plain_pieces(RowEnvironment().parse(text), COLUMNS)


def outcome(render: Any, values: Mapping[str, Any]) -> object:
    """Return what comes out, or the words of what goes wrong."""
    try:
        return render(values)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a {{ x }}\n", [Piece("a "), Piece("", "x"), Piece("\n")]),
        ("{{ x }}{{ row.x }}{{ row['order id'] }}", [Piece("", "x"), Piece("", "x"), Piece("", "order id")]),
        ("a {{- range }}{# b #}", [Piece("a"), Piece("", "range")]),
        ("{% raw %}{{ x }}{% endraw %}", [Piece("{{ x }}")]),
    ],
)
def test_texts_and_columns_are_pieces(text: str, wanted: list[Piece]) -> None:
    """A column may be named in each of the three ways; comments and trimmed blanks are gone."""
    assert pieces(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "{{ x | upper }}",
        "{{ x.y }}",
        "{{ x[0] }}",
        "{{ row[x] }}",
        "{{ row[0] }}",
        "{{ row.x.y }}",
        "{{ row }}",
        "{{ self }}",
        "{{ unknown }}",
        "{{ 'x' }}",
        "{{ x ~ x }}",
        "{% if x %}{{ x }}{% endif %}",
        "{% set x = 1 %}{{ x }}",
    ],
)
def test_anything_else_is_left_to_jinja(text: str) -> None:
    """One expression that is more than a column, and the template has no pieces."""
    assert pieces(text) is None


@pytest.mark.slow
@given(st.lists(WRITTEN, min_size=1, max_size=5), st.lists(VALUES, min_size=4, max_size=4))
def test_pieces_make_what_jinja_makes(written: list[str], found: list[Any]) -> None:
    """The same text or the same error comes out for whatever the columns hold."""
    text = "-" + "".join(written)  # which is never one expression alone
    assert pieces(text) is not None
    values = dict(zip(("x", "order id", "items", "range"), found, strict=True))
    jinja = RowEnvironment().from_string(text)
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    ours = compile_request(body, list(values))
    wanted = outcome(lambda values: jinja.render({**values, "row": values}), values)
    assert outcome(lambda values: ours.render(values)["messages"][0]["content"], values) == wanted


def test_row_text_is_never_a_template() -> None:
    """What a cell holds stands in the prompt as it is, whatever it looks like."""
    hostile = "{{ 7 * 7 }}{% for x in range(9) %}{{ self }}{% endfor %}"
    body = {"model": "m", "messages": [{"role": "user", "content": "a {{ x }} b"}]}
    assert compile_request(body, ["x"]).render({"x": hostile})["messages"][0]["content"] == f"a {hostile} b"


def test_pieces_are_counted() -> None:
    """Texts that are too long together fail the row, as in any template; the next row is fine."""
    body = {"model": "m", "messages": [{"role": "user", "content": "{{ x }} and {{ x }}"}]}
    template = compile_request(body, ["x"])
    with pytest.raises(ValueError, match="more than 67,108,864 characters"):
        template.render({"x": "a" * (MAX_CHARACTERS // 2)})
    assert template.render({"x": datetime.date(2026, 1, 2)})["messages"][0]["content"] == "2026-01-02 and 2026-01-02"
    assert template.render({"x": decimal.Decimal("1.10")})["messages"][0]["content"] == "1.10 and 1.10"
