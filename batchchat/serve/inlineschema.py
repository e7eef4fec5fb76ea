"""A JSON Schema that a prompt has in its text, for endpoints without `json_schema`: found, and cut from the text.

What passes in is text; what comes out is the schema, and the text without it and the sentence that asks for it. It does
not know messages.
"""

import re
from dataclasses import dataclass
from itertools import islice
from json import JSONDecodeError, JSONDecoder

from batchchat.serve.schema import Schema, SchemaError, check_schema

_LEAD = re.compile(r"\bjson[ -]?schema\b[^{]{0,200}(?=\{)", re.IGNORECASE)
_KEYWORDS = frozenset({"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum"})
_MAX_LEADS = 10
_DECODER = JSONDecoder()


@dataclass(frozen=True, slots=True)
class InlineSchema:
    """The schema, and the text around it."""

    schema: Schema
    text: str


def find_inline_schema(text: str) -> InlineSchema | None:
    """Return the first schema that stands after the words "JSON Schema", or None."""
    for lead in islice(_LEAD.finditer(text), _MAX_LEADS):
        try:
            schema, end = _DECODER.raw_decode(text, lead.end())
            check_schema(schema)
        except (JSONDecodeError, SchemaError, RecursionError):
            continue
        if not _KEYWORDS.isdisjoint(schema):
            start = text.rfind("\n", 0, lead.start()) + 1
            return InlineSchema(schema, f"{text[:start].rstrip()}\n{text[end:].lstrip()}".strip())
    return None
