"""`input.where` -> a polars expression that is known to be true or false of one row by itself.

It reads no rows. A condition that looks at other rows (`a > avg(a)`) would be answered for each batch alone, silently
wrong: it is refused.
"""

import json
from typing import Any

import polars as pl

from batchchat.errors import InputError
from batchchat.read.table import nearest_column

# What functions of SQL become in polars' expression tree, where the value depends on the row alone.
_ROW_FUNCTIONS = frozenset(
    (
        "Abs",
        "ArrayExpr",
        "Atan2",
        "Ceil",
        "Clip",
        "Coalesce",
        "Exp",
        "FillNull",
        "Floor",
        "ListExpr",
        "Log",
        "Log1p",
        "MaxHorizontal",
        "MinHorizontal",
        "Pow",
        "Round",
        "Sign",
        "Sql",
        "StringExpr",
        "StructExpr",
        "TemporalExpr",
        "Trigonometry",
        "Truncate",
    )
)
_ROW_FUNCTION_VARIANTS = {
    "Boolean": frozenset(("IsNull", "IsNotNull", "Not", "IsNan", "IsNotNan", "IsFinite", "IsInfinite")),
    "Bitwise": frozenset(("CountOnes", "CountZeros")),
}


def row_condition(where: str, schema: pl.Schema) -> pl.Expr:
    """Return the condition as an expression on frames of this schema.

    Raises InputError when it is not SQL, names an unknown column, is not true or false, or looks at more than one row.
    """
    try:
        expression = pl.sql_expr(where)
    except pl.exceptions.PolarsError as error:
        raise condition_error(where, f"is not a condition in SQL: {first_line(error)}") from error
    for name in expression.meta.root_names():
        if name not in schema:
            note = "text goes in single quotes, such as lang = 'en'. " if f'"{name}"' in where else ""
            raise condition_error(
                where, f'names the column "{name}", which is not there; {note}{nearest_column(name, schema.names())}'
            )
    if expression.meta.has_multiple_outputs():
        raise condition_error(where, "names a column like ^...$, which polars takes for a pattern; rename the column")
    if not _is_row_wise(json.loads(expression.meta.serialize(format="json"))):
        raise condition_error(
            where,
            "looks at more than one row; only conditions on the columns of one row are allowed "
            "(no avg, count, max, OVER or sub-queries). Compute such values before, and keep them in a column",
        )
    _check_boolean(where, expression, schema)
    return expression


def condition_error(where: str, text: str) -> InputError:
    """Return the error that quotes the condition, then says `text` of it."""
    return InputError(f"input.where ({where}) {text}")


def first_line(error: Exception) -> str:
    """Return what polars says first; the rest is its own expression tree."""
    return str(error).partition("\n")[0]


def _check_boolean(where: str, expression: pl.Expr, schema: pl.Schema) -> None:
    try:
        result = pl.DataFrame(schema=schema).select(expression.alias("where")).schema["where"]
    except pl.exceptions.PolarsError as error:
        used = {name: schema[name] for name in expression.meta.root_names()}
        types = ", ".join(f"{name} is {dtype}" for name, dtype in used.items())
        is_temporal = any(dtype.is_temporal() for dtype in used.values())
        note = "; write a date as DATE '2020-01-31'" if is_temporal else ""
        raise condition_error(where, f"cannot be computed: {first_line(error)} ({types}){note}") from error
    if result != pl.Boolean:
        raise condition_error(where, f"gives {result} and not true or false; write a comparison, such as lang = 'en'")


def _is_row_wise(node: Any) -> bool:
    """Whether every part of the expression tree is of a kind known to look at one row; unknown kinds are not."""
    match node:
        case {"Column": _} | {"Literal": _}:
            return True
        case {"Alias": [inner, _]} | {"Cast": {"expr": inner}} | {"Eval": {"expr": inner}}:
            return _is_row_wise(inner)
        case {"BinaryExpr": {"left": left, "right": right}}:
            return _is_row_wise(left) and _is_row_wise(right)
        case {"Ternary": {"predicate": predicate, "truthy": truthy, "falsy": falsy}}:
            return _is_row_wise(predicate) and _is_row_wise(truthy) and _is_row_wise(falsy)
        case {"Function": {"input": list(inputs), "function": function}}:
            return _is_row_function(function) and all(_is_row_wise(item) for item in inputs)
        case _:
            return False


def _is_row_function(function: Any) -> bool:
    if isinstance(function, str):
        return function in _ROW_FUNCTIONS
    name, variant = next(iter(function.items()))
    if name in _ROW_FUNCTION_VARIANTS:
        return isinstance(variant, str) and variant in _ROW_FUNCTION_VARIANTS[name]
    return name in _ROW_FUNCTIONS and "ConcatVertical" not in str(variant)
