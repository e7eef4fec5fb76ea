"""Which of the offered tools a conversation speaks for, and the calls of them.

What passes in are an `Offer`, the conversation and its `Subject`; what comes out are calls in the wire's shape, their
arguments valid for the tools' schemas. A tool is called when the last user message has words of its name or of its
description, or when one must be; not when a tool has the last word, unless one must be. It does not know replies.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from batchchat.serve.instance import instance_with
from batchchat.serve.message import Message
from batchchat.serve.phrase import Thing, named_things
from batchchat.serve.refusal import refused
from batchchat.serve.schema import SchemaError
from batchchat.serve.subject import Subject, last_user_message
from batchchat.serve.tools import Offer, Tool
from batchchat.serve.words import key_words, label_stems, normalised, stem, words

MAX_CALLS = 16
# What a function does says little of what it is about: "get" speaks for `get_weather` no more than for `get_time`.
_VAGUE = frozenset(
    map(
        stem,
        """get set find search look lookup fetch list show create make add update delete remove send check current run
        call use function tool api data info information by for the and from with of to new user value given return
        returns provide provides specific name time item request issue""".split(),  # noqa: SIM905 - as a list it is no easier to read
    )
)
_READ_CHARS = 8_000
_WORD = re.compile(r"[^\W_]{1,40}")
_PLACE_NAME = re.compile(
    r"location|city|cities|place|town|country|region|address|destination|venue|area", re.IGNORECASE
)
_QUERY_NAME = re.compile(
    r"query|question|^q$|search|text|prompt|message|input|content|body|reason|summary", re.IGNORECASE
)
_OWN_RULES = frozenset({"enum", "const", "format", "pattern", "$ref", "anyOf", "oneOf", "allOf", "not", "if"})

Call = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the last user message says: its stems, each with the place where it stands first, and what it names."""

    stems: Mapping[str, int]
    things: tuple[Thing, ...]


def calls_for(offer: Offer, messages: Sequence[Message], subject: Subject, salt: str) -> tuple[Call, ...]:
    """Return the calls to make, none when the conversation is to be answered in text; `salt` makes their ids unique.

    Raises RefusedError when no arguments can be made for a tool's schema.
    """
    is_forced = offer.choice in ("required", "named")
    if offer.choice == "none" or (messages[-1].role == "tool" and not is_forced):
        return ()
    asked = _asked(last_user_message(messages).text[:_READ_CHARS])
    chosen = _chosen(offer, asked, is_forced=is_forced)
    kept = islice(_arguments(chosen, asked, subject), MAX_CALLS if offer.is_parallel else 1)
    return tuple(_call(tool, arguments, index, salt) for index, (tool, arguments) in enumerate(kept))


def _asked(text: str) -> _Asked:
    folded = normalised(text)
    stems = {stem(word[0]): word.start() for word in reversed(list(_WORD.finditer(folded)))}
    return _Asked(stems, named_things(text))


def _chosen(offer: Offer, asked: _Asked, *, is_forced: bool) -> list[Tool]:
    """Return the tools that the message speaks for, in its order; when one must be called, at least one."""
    scores = [(_score(tool, asked), tool) for tool in offer.tools]
    best = max((score for score, _ in scores), default=0)
    if best == 0:
        return [tool for _, tool in scores[:1]] if is_forced else []
    # Words of its own name say that a tool is meant; its description may share a word with another's name.
    least = 10 if best >= 10 else best
    return sorted((tool for score, tool in scores if score >= least), key=lambda tool: _place(tool, asked))


def _score(tool: Tool, asked: _Asked) -> int:
    said = len(_described(tool) & asked.stems.keys())
    return 10 * len(_meant(tool) & asked.stems.keys()) + (said if said > 1 or (said and asked.things) else 0)


def _meant(tool: Tool) -> frozenset[str]:
    named = label_stems(tool.name)
    return (named - _VAGUE) or named


def _described(tool: Tool) -> frozenset[str]:
    return frozenset(map(stem, key_words(words(normalised(tool.description[:1_000])), limit=20))) - _VAGUE


def _place(tool: Tool, asked: _Asked) -> int:
    """Return where the message speaks of a tool first."""
    places = [at for word, at in asked.stems.items() if word in _meant(tool) or word in _described(tool)]
    return min(places, default=0)


def _arguments(chosen: Sequence[Tool], asked: _Asked, subject: Subject) -> Iterator[tuple[Tool, Any]]:
    """Yield each tool with the arguments of each of its calls: one for each thing named, when it takes a name."""
    for tool in chosen:
        name = _name_for_thing(tool)
        phrases = [thing.phrase for thing in _things_of(tool, chosen, asked)] if name else []
        for known in [{name.casefold(): phrase} for phrase in phrases if name] or [{}]:
            try:
                yield tool, instance_with(tool.parameters, subject, known)
            except SchemaError as error:
                raise refused(f"the parameters of the tool {tool.name}: {error}") from error


def _things_of(tool: Tool, chosen: Sequence[Tool], asked: _Asked) -> list[Thing]:
    """Return the things that a tool is to be called about: those named after it and before the next tool, if any."""
    places = [_place(one, asked) for one in chosen]
    mine = chosen.index(tool)
    nearest = {
        thing: max((index for index, at in enumerate(places) if at <= thing.at), default=0) for thing in asked.things
    }
    return [thing for thing in asked.things if nearest[thing] == mine] or list(asked.things)


def _name_for_thing(tool: Tool) -> str | None:
    """Return the property that takes the name of a place or a thing: a place's, else the first free required string."""
    properties = tool.parameters.get("properties", {}) if isinstance(tool.parameters, dict) else {}
    free = [name for name, schema in properties.items() if _is_free_text(schema)]
    required = tool.parameters.get("required", ()) if isinstance(tool.parameters, dict) else ()
    places = [name for name in free if _PLACE_NAME.search(name)]
    others = [name for name in free if name in required and not _QUERY_NAME.search(name)]
    return next(iter([*places, *others]), None)


def _is_free_text(schema: Any) -> bool:
    if not isinstance(schema, dict) or not _OWN_RULES.isdisjoint(schema):
        return False
    kinds = schema.get("type")
    return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)


def _call(tool: Tool, arguments: Any, index: int, salt: str) -> Call:
    number = hashlib.blake2b(f"{salt}:{index}".encode(), digest_size=12).hexdigest()
    return {
        "index": index,
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": tool.name, "arguments": orjson.dumps(arguments).decode()},
    }
