"""Pydantic's ValidationError -> Problems to act on: line, field, what is allowed, the value found, the fix."""

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from batchchat.errors import Problem
from batchchat.job.job import Job
from batchchat.job.misplaced_keys import masked
from batchchat.job.yaml import KeyPath, Position, dotted, position_of

_ALLOWED = {
    "missing": "is required",
    "string_type": "must be text (put it in quotes)",
    "path_type": "must be a path",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a mapping (key: value)",
    "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)",
    "list_type": "must be a list",
    "string_too_short": "must not be empty",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
}


def describe(error: ValidationError, data: Any) -> dict[KeyPath, str]:
    """Return what is wrong with each wrong field, by its path; alternatives of one field are joined by "or"."""
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        grouped.setdefault(_field_path(details, data), []).append(details)
    for path in [path for path in grouped if _is_other_alternative(path, grouped)]:
        del grouped[path]
    return {path: _text(path, found) for path, found in grouped.items()}


def located(texts: Mapping[KeyPath, str], positions: Mapping[KeyPath, Position], label: str) -> list[Problem]:
    """Return a Problem for each text, in file order, with the line or the option at which its value stands."""
    problems = []
    for path, text in texts.items():
        position = position_of(path, positions)
        where = label if position is None else position.label or f"{label}:{position.line}"
        problems.append((position.line if position else 0, Problem(where, dotted(path), text)))
    return [problem for _, problem in sorted(problems, key=lambda pair: pair[0])]


def _is_other_alternative(path: KeyPath, grouped: Mapping[KeyPath, list[ErrorDetails]]) -> bool:
    """Whether the value is only said not to be text because something within it, as a list, is wrong."""
    has_inner = any(len(other) > len(path) and other[: len(path)] == path for other in grouped)
    return has_inner and all(details["type"] == "string_type" for details in grouped[path])


def _field_path(details: ErrorDetails, data: Any) -> KeyPath:
    """Drop the parts of pydantic's location that name an alternative of a union rather than a key of the file."""
    path: KeyPath = ()
    for part in details["loc"]:
        is_item = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_item or (isinstance(data, dict) and part in data):
            data = data[part]
        elif details["type"] == "missing" and part == details["loc"][-1]:
            data = None
        else:
            continue
        path = (*path, part)
    return path


def _text(path: KeyPath, found: list[ErrorDetails]) -> str:
    first = found[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(path)
    text = ", or ".join(dict.fromkeys(_allowed(details) for details in found))
    if first["type"] != "missing" and not _may_hold_a_key(path, first["input"]):
        text += f"; found {shown(first['input'])}"
    return text


def _may_hold_a_key(path: KeyPath, value: Any) -> bool:
    """Whether a wrong value may be an API key that was put in the wrong place, and must not be printed."""
    is_url_with_more = path == ("endpoint", "base_url") and any(mark in str(value) for mark in "@?#")
    secret = (("endpoint", "api_key_env"), ("endpoint", "api_key_file"), ("notify",), ("notify", "url"))
    return is_url_with_more or path in secret


def _allowed(details: ErrorDetails) -> str:
    template = _ALLOWED.get(details["type"])
    if template is not None:
        return template.format(**details.get("ctx", {}))
    return details["msg"].removeprefix("Value error, ")


def shown(value: Any) -> str:
    """Return a value as a message quotes it: cut, and without what looks like a key."""
    try:
        text = repr(value) if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    text = masked(text[:1_000])  # before it is cut: half a key does not look like one
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    allowed = sorted(_keys(_model_at(path[:-1])))
    nearest = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    homes = [name for name in _keys(Job) if key in _keys(_model_at((name,)))]
    if nearest:
        return f"unknown key; did you mean `{nearest[0]}`? Allowed here: {', '.join(allowed)}"
    hint = f"; it belongs under `{homes[0]}`" if homes else ""
    return f"unknown key{hint}; allowed here: {', '.join(allowed)}"


def _keys(model: type[BaseModel] | None) -> list[str]:
    return list(model.model_fields) if model else []


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Job
    for part in path:
        if model is None or part not in model.model_fields:
            return None
        annotation = model.model_fields[str(part)].annotation
        options = (annotation, *get_args(annotation))
        model = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
    return model
