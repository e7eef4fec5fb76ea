"""The options that a prompt lists, and the one that fits a text best.

What passes in is text; what comes out are options as the prompt spells them. Every prompt has its own way of listing
("one of: a, b", "Answer with one word: a, b or c", "choose from [a, b]", "labels:" and a bulleted list), so this looks
for a lead, then for something list-like after it. It does not know messages or replies.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

_FOLLOWERS = r"(?:\s+(?:the|these|those|following|only|just|exactly|either))*"
# After these a list may follow at once.
_LOOSE_LEAD = (
    rf"(?:one|single)\s+word|(?:one|any)\s+of{_FOLLOWERS}|either"
    rf"|(?:choose|pick|select|choosing|decide)\b[^.:\n,]{{0,30}}?\b(?:from|between|among){_FOLLOWERS}"
    rf"|(?:classify|label|rate|mark|tag|sort|categori[sz]e)\b[^.:\n,]{{0,60}}?\b(?:as|into){_FOLLOWERS}"
    r"|(?:answer|reply|respond|say|return|output)(?:\s+(?:only|just|with|either|(?:the\s+|a\s+)?(?:one|single)\s+word))*"
)
# After these a colon, a bracket or "are" must come first.
_STRICT_LEAD = (
    r"(?:allowed|possible|valid|available)\s+\w+"
    r"|options?|labels?|categor(?:y|ies)|class(?:es)?|choices|values|answers|topics|tags|sentiments?|priorit(?:y|ies)"
    r"|intents?|departments?|teams?|queues?|languages?|choose|pick|select"
)
# Looked for in lower case: matching without regard to case takes five times as long.
_LEAD = re.compile(rf"\b(?=[acdeilmopqrstv])(?:(?:{_LOOSE_LEAD})(?=[\s:(\[])|(?P<strict>{_STRICT_LEAD})\b)")
_KEYS_LEAD = re.compile(r"\b(?:keys?|fields?|properties|attributes)\b(?=[\s:(\[])", re.IGNORECASE)
_KEY = re.compile(r"[^\W\d][\w-]{0,39}")
_QUOTED_KEY = re.compile(r"[\"`']([^\W\d][\w-]{0,39})[\"`']")
_OPENING = re.compile(r"[^,.;?!\n:(\[|]{0,40}?(?P<mark>[:=(\[{])[ \t]*(?P<bracket>[(\[{]?)")
_ARE = re.compile(r"(?:\s+[\w-]+){0,2}?\s+(?:are|is)\b")
_BULLETS = re.compile(r"\s*\n((?:[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+[^\n]{1,200}(?:\n|$)){2,30})")
_BULLET_NAME = re.compile(
    r"[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+([^\n]+?)(?:\s*[:(\u2014\u2013=]|\s+-\s|\s*$)[^\n]*", re.MULTILINE
)
_LIST_END = re.compile(r"\.(?=\s|$)|[;?!\n]|\s[-\u2014\u2013]\s|$")
_CLOSING = re.compile(r"[)\]}\n]")
_DESCRIPTION = re.compile(r"\s*\([^()\n]*\)")
_TAIL = re.compile(
    r"\s+(?:for|based|depending|according|that|which|and nothing|nothing|with no|without|when|if|only)\b.*",
    re.IGNORECASE,
)
_NOTHING_ELSE = re.compile(r"[,;]?\s+(?:and|with)\s+(?:nothing|no)\b.*", re.IGNORECASE | re.DOTALL)
_ARTICLE = re.compile(r"(?:exactly |only )?(?:one|any|the|a|an)\b", re.IGNORECASE)
_LAST = re.compile(r"\s+(?:or|and|oder|und|ou|et|o|y|e)\s+", re.IGNORECASE)
_LAST_LEAD = re.compile(r"\A(?:or|and|oder|und|ou|et|o|y|e)\s+", re.IGNORECASE)
_OPTION = re.compile(r"[^\s,;|]+(?: [^\s,;|]+){0,3}")
_QUOTES = " \t\"'`*“”\u2018\u2019«»„<>"
_MAX_LEADS = 50
_MAX_OPTIONS = 40
_MAX_OPTION_CHARS = 40
_MAX_LIST_CHARS = 1200


@dataclass(frozen=True, slots=True)
class Listing:
    """Options in the order listed, and where the sentence that lists them starts and ends in the text."""

    options: tuple[str, ...]
    start: int
    end: int


@lru_cache(maxsize=64)
def find_listing(text: str) -> Listing | None:
    """Return the first list of options in a text, or None."""
    lower = text.lower()
    # Of a few letters the lower case is longer, so that places in it would not be places in the text.
    for lead in islice(_LEAD.finditer(lower if len(lower) == len(text) else text), _MAX_LEADS):
        rest = text[lead.end() : lead.end() + _MAX_LIST_CHARS]
        options, length = _listed(rest, is_strict=lead["strict"] is not None)
        if len(options) >= 2:
            return Listing(options, _sentence_start(text, lead.start()), lead.end() + length)
    return None


@lru_cache(maxsize=64)
def find_keys(text: str) -> tuple[str, ...]:
    """Return the keys that a prompt names for its object, such as `with the keys "label" and "reason"`, or nothing."""
    for lead in islice(_KEYS_LEAD.finditer(text), _MAX_LEADS):
        rest = text[lead.end() : lead.end() + _MAX_LIST_CHARS]
        keys = tuple(dict.fromkeys(_QUOTED_KEY.findall(rest[: _found_end(_LIST_END, rest, 0)])))
        keys = keys or _listed(rest, is_strict=False)[0]
        if keys and all(_KEY.fullmatch(key) for key in keys):
            return keys
    return ()


def _sentence_start(text: str, position: int) -> int:
    return max(
        text.rfind(mark, 0, position) + len(mark) if mark in text[:position] else 0 for mark in ("\n", ". ", "? ", "! ")
    )


def _listed(rest: str, *, is_strict: bool) -> tuple[tuple[str, ...], int]:
    """Return the options that the text after a lead begins with, and how many characters they take."""
    opening = _OPENING.match(rest)
    if opening is None:
        are = _ARE.match(rest)
        if is_strict and are is None:
            return (), 0
        return _run_in(rest, are.end() if are else 0)
    start = opening.end()
    bullets = _BULLETS.match(rest, start)
    if bullets:
        return _checked(_BULLET_NAME.findall(bullets[1])), bullets.end()
    if opening["bracket"] or opening["mark"] not in ":=":
        end = _found_end(_CLOSING, rest, start)
        return _checked(_split(rest[start:end])), end + 1
    start += len(rest[start:]) - len(rest[start:].lstrip())
    end = _found_end(_LIST_END, rest, start)
    return _checked(_split(_DESCRIPTION.sub("", rest[start:end]))), end


def _run_in(rest: str, start: int) -> tuple[tuple[str, ...], int]:
    """Return the options of a list that follows its lead without a mark; running text is easily taken for one.

    It must end with "or", or be of single words, such as "as positive, negative or neutral".
    """
    end = _found_end(_LIST_END, rest, start)
    listed = _DESCRIPTION.sub("", rest[start:end])
    options = _checked(_split(listed)) if ":" not in listed else ()
    if any(_ARTICLE.match(option) for option in options):
        return (), 0
    is_single = all(" " not in option for option in options)
    has_or = re.search(r"\b(?:or|oder|ou|o)\b|\|", listed, re.IGNORECASE) is not None
    return (options, end) if is_single or (has_or and len(options) > 2) else ((), 0)


def _found_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.search(text, start)
    return match.start() if match else len(text)


def _split(listed: str) -> list[str]:
    listed = _NOTHING_ELSE.sub("", listed)
    for separator in ("|", ",", "、"):
        if separator in listed:
            *parts, last = listed.rstrip(" ,").split(separator)
            return [*parts, *_LAST.split(_LAST_LEAD.sub("", last.strip(), count=1))]
    parts = _LAST.split(listed)
    return parts if len(parts) > 1 else listed.split("/")


def _checked(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts cleaned, or nothing when one of them does not look like an option."""
    options = [_TAIL.sub("", part.strip(_QUOTES)).strip(_QUOTES + ".") for part in parts]
    options = list(dict.fromkeys(option for option in options if option))
    if len(options) > _MAX_OPTIONS:
        return ()
    if any(len(option) > _MAX_OPTION_CHARS or not _OPTION.fullmatch(option) for option in options):
        return ()
    return tuple(options)
