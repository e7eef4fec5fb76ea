r"""A regular expression -> a string that it matches, for the patterns that schemas have.

What passes in is the pattern, and how often to repeat what may be repeated; what comes out is a string. It knows
literals, classes, `\d \w \s`, groups, alternatives, quantifiers and anchors. It does not know lookarounds and
backreferences: `instance.py` tries what comes out on the pattern, and refuses the schema when it does not match.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass

from batchchat.serve.schema import SchemaError

MAX_REPEATS = 1_000
MAX_CHARS = 100_000
_PRINTABLE = string.ascii_lowercase + string.ascii_uppercase + string.digits + " _-.,:;!?@#$%&*+=/~'\""
_ESCAPED = {
    "d": string.digits,
    "w": string.ascii_letters + string.digits + "_",
    "s": " ",
    "n": "\n",
    "t": "\t",
    "r": "\r",
}
_ANCHORS = frozenset("bBAZ")

# How many times something is repeated -> the text of it.
Piece = Callable[[int], str]


@dataclass(slots=True)
class _Reader:
    """Reads a pattern from left to right."""

    pattern: str
    at: int = 0

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise SchemaError(f"pattern {self.pattern[:100]!r} ends too early")
        self.at += 1
        return char

    def skip(self, text: str) -> bool:
        is_there = self.pattern.startswith(text, self.at)
        self.at += len(text) if is_there else 0
        return is_there


def matching_text(pattern: str, extra_repeats: int = 0) -> str:
    """Return a string for the pattern, with each repetition done `extra_repeats` times more than it must be.

    Raises SchemaError for what is not known here.
    """
    return _alternatives(_Reader(pattern), 0)(extra_repeats)


def _alternatives(reader: _Reader, depth: int) -> Piece:
    if depth > 30:
        raise SchemaError("the pattern is nested too deeply")
    first = _sequence(reader, depth)
    while reader.skip("|"):
        _sequence(reader, depth)
    return first


def _sequence(reader: _Reader, depth: int) -> Piece:
    pieces: list[Piece] = []
    while reader.peek() and reader.peek() not in "|)":
        pieces.append(_quantified(_atom(reader, depth), reader))
    return lambda extra: "".join(piece(extra) for piece in pieces)


def _atom(reader: _Reader, depth: int) -> Piece:
    char = reader.take()
    if char == "(":
        return _group(reader, depth)
    if char == "[":
        return _literal(_class(reader))
    if char == "\\":
        return _literal(_escape(reader))
    if char in "^$":
        return _literal("")
    return _literal("a" if char == "." else char)


def _literal(text: str) -> Piece:
    return lambda extra: text[:1]


def _group(reader: _Reader, depth: int) -> Piece:
    if reader.skip("?"):
        if reader.skip("P<") or (reader.skip("<") and reader.peek() not in "=!"):
            while reader.take() != ">":
                pass
        elif not reader.skip(":"):
            raise SchemaError("a pattern with a lookaround or flags is not known to the embedded endpoint")
    inner = _alternatives(reader, depth + 1)
    if not reader.skip(")"):
        raise SchemaError("the pattern has a group without its end")
    return inner


def _escape(reader: _Reader) -> str:
    """Return the characters that an escape stands for; none for an anchor."""
    char = reader.take()
    if char in _ANCHORS:
        return ""
    if char in "xu":
        size = 2 if char == "x" else 4
        digits = "".join(reader.take() for _ in range(size))
        if not all(digit in string.hexdigits for digit in digits):
            raise SchemaError(f"the pattern has an escape \\{char}{digits}")
        return chr(int(digits, 16))
    if char.lower() in "dws" and char.isupper():
        return "".join(other for other in _PRINTABLE if other not in _ESCAPED[char.lower()])
    if char in "pPkg" or char.isdigit():
        raise SchemaError(f"the pattern has an escape \\{char}, which is not known to the embedded endpoint")
    return _ESCAPED.get(char, char)


def _class(reader: _Reader) -> str:
    """Return the characters that a class allows, as far as they matter: the first is used."""
    is_negated = reader.skip("^")
    allowed = ""
    while not (allowed and reader.peek() == "]"):
        char = reader.take()
        low = _escape(reader) if char == "\\" else char
        if len(low) == 1 and reader.peek() == "-" and reader.pattern[reader.at + 1 : reader.at + 2] not in ("]", ""):
            reader.take()
            char = reader.take()
            high = _escape(reader) if char == "\\" else char
            low = _range(low, high)
        allowed += low
    reader.take()
    if not is_negated:
        return allowed
    return "".join(char for char in _PRINTABLE if char not in allowed) or "\u2603"


def _range(low: str, high: str) -> str:
    if len(high) != 1 or high < low:
        raise SchemaError(f"the pattern has a range {low}-{high}")
    # For a negated class the whole range matters, as far as it is printable ASCII.
    return low + "".join(char for char in _PRINTABLE if low < char <= high)


def _quantified(piece: Piece, reader: _Reader) -> Piece:
    low, high = _bounds(reader)
    if low is None:
        return piece
    # Lazy and possessive repetitions match the same strings.
    _ = reader.skip("?") or reader.skip("+")
    if low > MAX_REPEATS:
        raise SchemaError(f"the pattern repeats something {low} times; {MAX_REPEATS} are allowed")
    least, most = low, MAX_REPEATS if high is None else min(high, MAX_REPEATS)
    return lambda extra: _repeated(piece(extra), max(least, min(most, least + extra)))


def _repeated(text: str, times: int) -> str:
    if len(text) * times > MAX_CHARS:
        raise SchemaError(f"the pattern asks for more than {MAX_CHARS} characters")
    return text * times


def _bounds(reader: _Reader) -> tuple[int | None, int | None]:
    """Return how often something is repeated: at least and at most; (None, ...) when there is no quantifier."""
    for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
        if reader.skip(mark):
            return bounds
    end = reader.pattern.find("}", reader.at)
    if reader.peek() != "{" or end < 0:
        return None, None
    low, comma, high = reader.pattern[reader.at + 1 : end].partition(",")
    if not all(part.isascii() and (part.isdigit() or not part) and len(part) < 9 for part in (low, high)) or not (
        low or high
    ):
        return None, None
    reader.at = end + 1
    least = int(low or 0)
    return least, int(high) if high else (None if comma else least)
