"""The things that a request for something names: places, people, symbols; what a tool is to be called about.

What passes in is a user's text; what comes out are phrases as the text spells them, in its order: "the weather in San
Francisco, CA" names one thing, "in Paris, Lima and Tokyo" three. It does not know tools.
"""

import re
from dataclasses import dataclass

_CAPITAL = "A-Z\u00c0-\u00d6\u00d8-\u00de"
_WORD = rf"[{_CAPITAL}][\w'\u2019.-]{{0,40}}"
_NAME = rf"{_WORD}(?: (?:(?:de|da|do|del|la|le|of|on|am|upon) )?{_WORD}){{0,5}}"
_PLACE = rf"{_NAME}(?:, [A-Z]{{2}}\b)?"
_JOINED = r"(?:, and |, or |, | and | or | & | und | et | y )"
_PREPOSITION = r"\b(?:[Ii]n|[Ff]or|[Aa]t|[Nn]ear|[Oo]f|[Ff]rom|[Tt]o|[Aa]bout|[Aa]round|[Bb]etween)"
_NAMED = re.compile(rf"{_PREPOSITION} (?:the )?({_PLACE}(?:{_JOINED}(?:in |for |at )?(?:the )?{_PLACE})*)")
_LAST = re.compile(r"(?:,? (?:and|or|&|und|et|y) )(?:in |for |at )?(?:the )?")
_NO_NAME = r"(?!(?:today|tomorrow|now|right|please|this|next|and|or|on|at|in|for)\b)"
_LOWER = re.compile(rf"\b(?:in|for|at|near) +((?:{_NO_NAME}[^\W\d_]+ ?){{1,3}})")
_READ_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Thing:
    """A phrase, and where the list of things that it belongs to starts."""

    phrase: str
    at: int


def named_things(text: str) -> tuple[Thing, ...]:
    """Return what is named after words such as "in" or "for", each once; by lower-case words when there is no name."""
    head = text[:_READ_CHARS]
    found = [(phrase, match.start()) for match in _NAMED.finditer(head) for phrase in _parted(match[1])]
    lower = _LOWER.search(head) if not found else None
    if lower:
        found = [(lower[1], lower.start())]
    cleaned = {phrase.strip(" .'\u2019-"): at for phrase, at in reversed(found)}
    return tuple(Thing(phrase, at) for phrase, at in reversed(cleaned.items()) if phrase)


def _parted(found: str) -> list[str]:
    """Return the things of a list; without an "and", a comma is a part of the name, as in "Paris, France"."""
    parts = _LAST.split(found)
    return [found] if len(parts) == 1 else [thing for part in parts for thing in re.split(r", (?![A-Z]{2}\b)", part)]
