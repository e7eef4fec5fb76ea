"""`request.response_schema` -> the strict `json_schema` response format of the API, and what answers are judged by.

Whether the schema is one at all, its validator decides.

The short form gives each field its type: `string`, `integer`, `number` or `boolean` (`string?`: or null), a list of
values to choose from, a list of one type (`[string]`, `[{name: string}]`) for a list of such, a mapping for an object.
A mapping is a JSON Schema, and no short form, when it has `$schema`, `$ref`, `$defs`, `$id`, `properties` of mappings,
or alternatives (`anyOf`, `oneOf`, `allOf`) that are JSON Schemas; or when its `type` is one of JSON Schema's, and all
its other keys are keywords with values of their kind: at least one of them, unless the type is object or array. So
`{type: string}` and `{type: [a, b], x: string}` have a field named `type`; `{type: string, maxLength: 9}` has not.
"""

import difflib
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pydantic import BaseModel

from batchchat.job.strict_schema import NOT_STRICT, TYPE_NAMES, Schema, Strictness

ALLOWED = (
    "it must be a JSON Schema, the short form such as {category: [billing, shipping], urgent: boolean}, "
    "the path of a .json file, or module:Class of a Pydantic model"
)
_SHORT_TYPES = ("string", "integer", "number", "boolean")
_MODEL = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")

_FLAT_KEYWORDS = frozenset(
    {"title", "description", "$comment", "deprecated", "default", "const", "format", "pattern", "minLength"}
    | {"maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
    | {"minProperties", "maxProperties", "uniqueItems", "nullable", "readOnly", "writeOnly"}
)
_DEEP_KEYWORDS = (NOT_STRICT - _FLAT_KEYWORDS) | frozenset(
    {"enum", "examples", "required", "anyOf", "items", "additionalProperties", "definitions"}
)
_FIELD_ALLOWED = (
    "it must be string, integer, number or boolean (with ? when it may be null), a list of values to choose from, "
    "a list of one type such as [string], or a mapping of fields"
)


def resolved(value: Any, base: Path) -> tuple[dict[str, Any], Schema]:
    """Return the response format for a `request.response_schema`, and the schema that answers are judged by.

    `base` is the folder of the job file. What is sent has its objects closed and all their properties required, at
    every depth; those that were optional become nullable. `strict` is false when something remains that strict
    endpoints refuse: an object that is open on purpose stays as it is, and where schemas are put together (`allOf`,
    `if`), which closing them would break, the whole does.

    Answers are judged by what the job says, for many endpoints do not enforce what they are sent: optional properties
    may be missing, or be null, and others may be there where they are not forbidden.

    Raises:
        ValueError: it is none of the forms, cannot be read, or its root is not an object.
    """
    try:
        if isinstance(value, (str, Mapping)):
            _refuse_templates(value)
        schema, name = _schema(value, base)
        _refuse_templates(schema)
        document = _json(schema)
        strictness = Strictness(document)
        strict_schema = strictness.root()
        judged_by = Strictness(document, closes=False).root()
    except RecursionError as error:
        raise ValueError("is nested too deeply; use $defs and $ref for what repeats") from error
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(strict_schema.get("title", name))).strip("_")[:64]
    inner = {"name": name or "response", "strict": strictness.is_strict, "schema": strict_schema}
    return {"type": "json_schema", "json_schema": inner}, judged_by


def _schema(value: Any, base: Path) -> tuple[Schema, str]:
    """Return the JSON Schema that a value stands for, and the name to give it when it has no title."""
    if isinstance(value, type):
        return _model_schema(value, value.__name__), value.__name__
    if isinstance(value, Mapping):
        return (dict(value) if _is_json_schema(value) else _object(value, "")), ""
    if not isinstance(value, str):
        _refuse(f"is {_shown(value)}; {ALLOWED}")
    if _MODEL.fullmatch(value) and not value.endswith(".json"):
        module_name, _, class_name = value.partition(":")
        with _importable(base, module_name.partition(".")[0]):
            return _model_schema(_imported(module_name, class_name), value), class_name.rpartition(".")[2]
    return _file_schema(value, base), ""


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _json(schema: Schema) -> Schema:
    """Return a copy of plain dicts and lists, so that nobody's own is changed."""
    try:
        copy: Schema = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"holds what JSON has not: {error}; put text in quotes") from error
    return copy


def _refuse_templates(value: Any) -> None:
    text = repr(value)  # of JSON values, which have no two braces in a row but within strings
    mark = next((mark for mark in ("{{", "{%", "{#") if mark in text), None)
    if mark is not None:
        found = text[text.index(mark) :][:40]
        _refuse(f"has a template ({found}); response_schema is the same for every row: write it without {mark}")


def _file_schema(text: str, base: Path) -> Schema:
    path = base / text
    if path.suffix.lower() != ".json":
        _refuse(f"is {_shown(text)}; {ALLOWED}")
    try:
        if not path.is_file():
            _refuse(f"names {path}, and there is no such file; relative paths count from the job file's folder")
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"names {path}, which cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"names {path}, which is not JSON: {error}") from error
    if not isinstance(value, dict):
        _refuse(f"names {path}, which holds {_shown(value)}; it must hold a JSON Schema, an object")
    return value


@contextmanager
def _importable(base: Path, package: str) -> Iterator[None]:
    """Let the job's folder and the current one come first in imports.

    A module of the same name that the process has from elsewhere steps aside for as long.
    """
    folders = [str(base.resolve()), str(Path().resolve())]
    importlib.invalidate_caches()
    ours = PathFinder.find_spec(package, folders)
    aside: dict[str, ModuleType] = {}
    if ours is not None and ours.origin != getattr(sys.modules.get(package), "__file__", None):
        names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
        aside = {name: sys.modules.pop(name) for name in names}
    path_before = list(sys.path)
    sys.path[:0] = folders
    try:
        yield
    finally:
        sys.modules.update(aside)
        sys.path[:] = path_before


def _imported(module_name: str, class_name: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"names {module_name}, which cannot be imported ({reason})") from error
    for name in class_name.split("."):
        if not hasattr(found, name):
            models = [name for name, one in vars(found).items() if isinstance(one, type) and issubclass(one, BaseModel)]
            near = difflib.get_close_matches(name, models, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"its Pydantic models: {', '.join(models) or 'none'}"
            _refuse(f"names {name}, and {module_name} has none; {hint}")
        found = getattr(found, name)
    return found


def _model_schema(model: Any, label: str) -> Schema:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        _refuse(f"names {label}, which is {_shown(model)}; it must be a class derived from pydantic.BaseModel")
    try:
        return model.model_json_schema()
    except Exception as error:
        raise ValueError(f"names {label}, of which Pydantic makes no JSON Schema: {error}") from error


def _is_json_schema(mapping: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a JSON Schema rather than the short form; the rule is in the module's docstring."""
    if not {"$schema", "$ref", "$defs", "$id"}.isdisjoint(mapping):
        return True
    properties = mapping.get("properties")
    if isinstance(properties, Mapping) and all(isinstance(part, (Mapping, bool)) for part in properties.values()):
        return True
    if any(_has_schemas(mapping.get(keyword)) for keyword in ("anyOf", "oneOf", "allOf")):
        return True
    kind = mapping.get("type")
    names = kind if isinstance(kind, list) else [kind]
    if not names or not all(name in ("null", *TYPE_NAMES.values()) for name in names):
        return False
    others = [_is_keyword(key, value) for key, value in mapping.items() if key != "type"]
    return all(others) and (bool(others) or kind in ("object", "array"))


def _has_schemas(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value) and all(isinstance(part, Mapping) for part in value)
    return is_list and (len(value) > 1 or _is_json_schema(value[0]))


def _is_keyword(key: Any, value: Any) -> bool:
    """Whether a key is a keyword of JSON Schema, with a value that it may have and no type of the short form."""
    if isinstance(value, (Mapping, list)) or (isinstance(value, bool) and key not in _FLAT_KEYWORDS):
        return key in _DEEP_KEYWORDS
    return not _is_type_name(value) and (key in _FLAT_KEYWORDS or str(key).startswith("x-"))


def _is_type_name(value: Any) -> bool:
    return isinstance(value, str) and value.removesuffix("?") in _SHORT_TYPES


def _object(fields: Mapping[Any, Any], where: str) -> Schema:
    """Return the schema of a mapping in the short form; `where` names the field that it stands for, if it does."""
    if not fields:
        _refuse(f"{where} is an empty mapping; name at least one field, such as {{summary: string}}".lstrip())
    for name in fields:
        if not isinstance(name, str):
            _refuse(f"{where} has a field named {_shown(name)}; names must be text (put it in quotes)".lstrip())
    properties = {
        name: _field(value, f"{where}.{name}" if where else f"field {name}") for name, value in fields.items()
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _field(value: Any, where: str) -> Schema:
    """Return the schema of one value of the short form."""
    if _is_type_name(value):
        name = value.removesuffix("?")
        return {"type": [name, "null"] if value.endswith("?") else name}
    if isinstance(value, Mapping):
        return dict(value) if _is_json_schema(value) else _object(value, where)
    if not isinstance(value, (list, tuple)):
        near = difflib.get_close_matches(str(value), _SHORT_TYPES, n=1, cutoff=0.5)
        _refuse(f"{where} is {_shown(value)}; {_FIELD_ALLOWED}{f'; did you mean {near[0]}?' if near else ''}")
    if len(value) == 1 and (isinstance(value[0], (Mapping, list)) or _is_type_name(value[0])):
        return {"type": "array", "items": _field(value[0], where)}
    if not value or any(isinstance(one, (Mapping, list, tuple)) for one in value):
        _refuse(f"{where} is {_shown(value)}; a list must have values to choose from, or one type for its items")
    if all(_is_type_name(one) or one in (None, "null") for one in value):
        _refuse(
            f"{where} is {_shown(value)}, a choice between the names of types; "
            "write string? for text or null, [string] for a list of texts, or a JSON Schema with anyOf"
        )
    return {"enum": list({(type(one), one): one for one in value}.values())}
