"""A model's text -> the JSON in it: as it stands, in a fence, amid prose, or mended where it was cut or is nearly JSON.

What passes in is any text; what comes out are the values that it may mean, the likeliest first. It does not know
schemas. The mending is our own, because that of the libraries takes time in the square of a text's length or worse:
seconds for a few KB that a model may well write, in which a run could do nothing else.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

MAX_MENDED_CHARACTERS = 1_000_000
"""Characters of the longest text that is mended; a longer one must be JSON as it stands."""
MAX_VALUES = 8
"""Values amid prose, and fenced ones, that are tried."""
MAX_DEPTH = 200

_SURROGATE = re.compile("[\ud800-\udfff]")
_OPENING = re.compile(r"[{\[]")
_FENCE_LANGUAGE = re.compile(r"\A[A-Za-z0-9]+(?=[\s{\[])")
_ENDING = r"(?=\s*(?:[,:}\]]|/[/*]|\Z)|[ \t]*\r?\n)"
"""What follows a quote that ends a string; another quote was meant to stand in it."""
_TOKEN = re.compile(
    r"(?P<space>\s++|//[^\n]*+|#[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/)?)"
    rf'|(?P<string>"(?:[^"\\]++|\\.|"(?!{_ENDING}))*+"'
    rf"|'(?:[^'\\]++|\\.|'(?!{_ENDING}))*+')"
    r"""|(?P<cut>["'].*+)|(?P<mark>[{}\[\],:])|(?P<word>[^\s{}\[\],:"']++)""",
    re.DOTALL,
)
_ESCAPE = re.compile(r'\\u[0-9a-fA-F]{4}|\\u[0-9a-fA-F]{0,3}\Z|\\.|\\\Z|"', re.DOTALL)
_CLOSERS = {"{": "}", "[": "]"}
_MARKS = frozenset("{[,:")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True, slots=True)
class FoundJson:
    """A JSON value, its compact text, and where it ended in the text that it was read from."""

    value: Any
    text: str
    end: int


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(word)


_STRICT = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
_LENIENT = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant, strict=False)
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def whole(text: str) -> Iterator[FoundJson]:
    """Yield the JSON that stands whole in a text: the text itself, what is fenced in it, what stands amid prose."""
    yield from _loaded(text)
    prose = _after_thought(text)
    for candidate in [prose, *_fenced(prose)]:
        yield from _loaded(candidate)
    end: int | None = 0
    for _ in range(MAX_VALUES):
        at = None if end is None else _bracket(prose, end)
        end = None
        for found in _loaded(prose, at=at) if at is not None else ():
            yield found
            end = found.end


def mended(text: str) -> Iterator[FoundJson]:
    """Yield what a text becomes when its objects and lists are closed, and cleared of what JSON has not.

    It takes time in proportion to the text, whatever stands in it: a run has thousands of other rows to see to.
    """
    prose = _after_thought(text)
    for candidate in [*_fenced(prose), prose] if len(text) <= MAX_MENDED_CHARACTERS else []:
        at = _bracket(candidate, 0)
        for _ in range(MAX_VALUES):
            if at is None:
                break
            closed, end = _closed(candidate, at)
            # An empty one is what remains of prose in brackets.
            yield from (found for found in _loaded(closed, decoder=_LENIENT) if found.value)
            at = _bracket(candidate, end)


def _after_thought(text: str) -> str:
    """Return a text without the thought before it; a thought that does not end is the whole text."""
    start = text.lstrip()[:7]
    if start == "<think>" or ("</think>" in text and start[:1] not in ("{", "[", '"', "`")):
        return text.partition("</think>")[2]
    return text


def _fenced(text: str) -> list[str]:
    """Return what stands between fences, the last first, which may be open; fences within JSON are of its strings."""
    if text.lstrip()[:1] in ("{", "["):
        return []
    blocks = text.split("```")[1::2][-MAX_VALUES:]
    return [_FENCE_LANGUAGE.sub("", block) for block in reversed(blocks)]


def _bracket(text: str, start: int) -> int | None:
    """Return where the first object or list begins, None when none does."""
    found = _OPENING.search(text, start)
    return found.start() if found else None


def _loaded(text: str, *, at: int | None = None, decoder: json.JSONDecoder = _STRICT) -> Iterator[FoundJson]:
    """Yield a text as JSON, or what begins `at` a place of it, whatever follows; nothing when it is none.

    A value that no table can hold is none: one nested without measure. Lone surrogates become U+FFFD.
    """
    try:
        if at is None:
            text = text.strip().removeprefix("\ufeff").strip()
        value, end = (decoder.decode(text), len(text)) if at is None else decoder.raw_decode(text, at)
        compact = _COMPACT.encode(value)
    except (ValueError, RecursionError):
        return
    if compact.count("[") + compact.count("{") > MAX_DEPTH and _is_deep(value):
        return
    storable = _SURROGATE.sub("\ufffd", compact)
    yield FoundJson(value if storable == compact else json.loads(storable), storable, end)


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth < MAX_DEPTH:
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [part for part in level if isinstance(part, (dict, list))]
        depth += 1
    return bool(level)


def _closed(text: str, start: int) -> tuple[str, int]:
    """Return the object or list that begins at `start`, as near to JSON as can be guessed, and where it ends."""
    pieces: list[str] = []
    closers: list[str] = []
    for match in _TOKEN.finditer(text, start):
        token, kind = match.group(), match.lastgroup
        if token in _CLOSERS:
            _add_value(pieces, token)
            closers.append(_CLOSERS[token])
            if len(closers) > MAX_DEPTH:
                return "", len(text)
        elif token in closers:
            while _close(pieces, closers) != token:
                pass
            if not closers:
                return "".join(pieces), match.end()
        elif kind == "mark":
            _add_mark(pieces, token)
        elif kind != "space":
            _add_value(pieces, _scalar(token, kind, is_last=match.end() == len(text)))
    while closers:
        _close(pieces, closers)
    return "".join(pieces), len(text)


def _add_value(pieces: list[str], piece: str | None) -> None:
    if piece is None:
        return
    if pieces and pieces[-1] not in _MARKS:
        pieces.append(",")
    pieces.append(piece)


def _add_mark(pieces: list[str], mark: str) -> None:
    """Add a comma or a colon, where it has something before it; a colon makes a name of a word."""
    if mark not in _MARKS or pieces[-1] in _MARKS:
        return
    if mark == ":" and pieces[-1][0] not in ('"', "}", "]"):
        pieces[-1] = json.dumps(pieces[-1])
    pieces.append(mark)


def _close(pieces: list[str], closers: list[str]) -> str:
    """Close the innermost object or list, without a comma or a name that nothing follows; return its closer."""
    closer = closers.pop()
    if pieces[-1] == ":":
        del pieces[-2:]
    elif closer == "}" and pieces[-1] not in _MARKS and pieces[-2] in ("{", ","):
        del pieces[-1]
    if pieces[-1] == ",":
        del pieces[-1]
    pieces.append(closer)
    return closer


def _scalar(token: str, kind: str | None, *, is_last: bool) -> str | None:
    """Return a string or a word as JSON; None for a word that the end of the text may have cut."""
    if kind != "word":
        inner = token[1:] if kind == "cut" else token[1:-1]
        return f'"{_ESCAPE.sub(_escaped, inner)}"'
    word = _PYTHON_WORDS.get(token, token)
    return None if is_last and word not in _PYTHON_WORDS.values() else word


def _escaped(match: re.Match[str]) -> str:
    """Return an escape, or a quote, as JSON has it."""
    found = match.group()
    if found == '"':
        return '\\"'
    if len(found) == 6 or found[1:] in ('"', "\\", "/", "b", "f", "n", "r", "t"):
        return found
    if len(found) == 1 or found[1] == "u":
        return ""
    return found[1] if found[1] == "'" else f"\\\\{found[1]}"
