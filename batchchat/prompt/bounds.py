"""How much the templates of one row may do: steps, characters and levels, counted and never timed.

The same row always meets the same bound at the same place, so that its request, or its failure, is the same in every
run. What passes in are the values that an expression is about to work on; what comes out is the error of one that goes
too far. It does not know templates.
"""

from collections.abc import Iterable, Iterator, Sized
from decimal import Decimal
from typing import Any

from batchchat.prompt.plain import refuse_object

MAX_STEPS = 1_000_000
"""Rounds of loops, calls, and values that are looked at, for one row."""
MAX_CHARACTERS = 64 * 2**20
"""Characters that are made for one row, those of intermediate texts included."""
MAX_LEVELS = 100
"""Macros, blocks and recursive loops within each other; Python's own stack would end sooner in one run than another."""
MAX_DEPTH = 200
"""Lists and mappings within each other."""
MAX_BITS = 14_000
"""Bits of an integer; Python writes none of more than 4,300 digits."""

_CHARACTERS_PER_STEP = 64  # looking through a text is that much cheaper than a round of a loop
_PREPARE = "or prepare a column before the run"
_SCALARS = frozenset({int, float, bool, type(None)})
_COLLECTIONS: tuple[Any, ...] = (list, tuple, dict, range, set, type({}.keys()), type({}.values()), type({}.items()))
_MEASURED: tuple[Any, ...] = (str, bytes, *_COLLECTIONS)


class LimitError(ValueError):
    """A template of a row does more than is allowed."""


class Meter:
    """What the templates of a row may still do; `refill` begins the next row. It serves one row at a time."""

    __slots__ = ("characters_left", "level", "steps_left")

    def __init__(self) -> None:
        self.refill()

    def refill(self) -> None:
        """Allow everything again."""
        self.steps_left = MAX_STEPS
        self.characters_left = MAX_CHARACTERS
        self.level = 0

    def take_steps(self, count: int) -> None:
        """Use up steps.

        Raises:
            LimitError: there are not so many left.
        """
        self.steps_left -= count
        if self.steps_left < 0:
            message = (
                f"the templates of this row take more than {MAX_STEPS:,} steps (rounds of loops, calls, values looked"
                f" at); loop over less, {_PREPARE}"
            )
            raise LimitError(message)

    def take_characters(self, count: int) -> None:
        """Use up characters, of a text that has been made.

        Raises:
            LimitError: there are not so many left.
        """
        if count > self.characters_left:
            self.require_characters(count)
        self.characters_left -= count

    def require_characters(self, count: int) -> None:
        """Raise LimitError if a text of so many characters, which is about to be made, would be too long."""
        if count > self.characters_left:
            message = (
                f"the templates of this row make more than {MAX_CHARACTERS:,} characters of text, intermediate ones"
                f" included; repeat, pad or join less, {_PREPARE}"
            )
            raise LimitError(message)

    def enter(self) -> None:
        """Begin a call that may lead to itself; `level` goes down again when it ends.

        Raises:
            LimitError: there are too many within each other.
        """
        self.level += 1
        if self.level > MAX_LEVELS:
            message = (
                f"macros or recursive loops call each other more than {MAX_LEVELS} levels deep; end the recursion"
                f" sooner, {_PREPARE}"
            )
            raise LimitError(message)

    def weigh(self, value: Any, *, is_text: bool = False, indent: int = 0) -> int:
        """Use up steps for all that a value holds, at every depth, and return its characters.

        A value that holds another many times counts it as often as it would be written. With `is_text` it is going to
        be text, each level of it indented by so many characters.

        Raises:
            LimitError: it holds too much.
            ValueError: with `is_text`, something in it has no text but its address in memory.
        """
        if isinstance(value, str):
            characters = len(value)
            self.take_steps(1 + characters // _CHARACTERS_PER_STEP)
            return characters
        if type(value) in _SCALARS:
            self.take_steps(1)
            return 0
        return self._weigh_inside(value, is_text=is_text, indent=indent)

    def _weigh_inside(self, value: Any, *, is_text: bool, indent: int) -> int:
        level, depth, characters = [value], 0, 0
        while level:
            self.take_steps(len(level))
            characters += len(level) * depth * indent
            inside: list[Any] = []
            for item in level:
                if isinstance(item, (str, bytes)):
                    characters += len(item)
                    self.take_steps(len(item) // _CHARACTERS_PER_STEP)
                elif isinstance(item, _COLLECTIONS):
                    self.take_steps(len(item))
                    inside.extend(item)
                    inside.extend(item.values() if isinstance(item, dict) else ())
                elif is_text:
                    refuse_object(item)
            level = inside
            depth += 1
            if depth > MAX_DEPTH:
                message = f"a value is nested more than {MAX_DEPTH} levels deep; take less of it, {_PREPARE}"
                raise LimitError(message)
        return characters

    def seen(self, value: Any) -> Any:
        """Return an argument of a filter, a test or a method, all of it counted; an iterator as one over a list."""
        if type(value) is str:  # without detours: most of them are
            self.take_steps(1 + len(value) // _CHARACTERS_PER_STEP)
            return value
        if is_iterator(value):
            items = self.listed(value)
            self.weigh(items)
            return iter(items)
        self.weigh(value)
        return value

    def counted(self, value: Any) -> Any:
        """Return something to loop over, its rounds counted; whatever goes wrong in looping goes wrong as before."""
        if isinstance(value, _MEASURED):
            self.take_steps(len(value))
            return value
        return iter(self.listed(value)) if is_iterator(value) else value

    def listed(self, items: Iterable[Any]) -> list[Any]:
        """Return the items as a list.

        Raises:
            LimitError: there are more of them than steps left.
        """
        found = []
        for item in items:
            self.take_steps(1)
            found.append(item)
        return found

    def made(self, value: Any) -> Any:
        """Return what an operation made, its size counted; an iterator as one over a list.

        Raises:
            LimitError: it is too large.
        """
        kind = type(value)
        if kind is str or kind is bytes:
            self.take_characters(len(value))
        elif kind is int or kind is Decimal:
            refuse_huge(value.bit_length() if kind is int else 4 * abs(value.adjusted()))
        elif isinstance(value, (list, tuple)):
            self.take_steps(len(value))
        elif is_iterator(value):
            return iter(self.listed(value))
        return value

    def joined(self, parts: Iterable[str]) -> str:
        """Return the parts as one text."""
        found = parts if isinstance(parts, list) else list(parts)
        self.take_characters(sum(map(len, found)))
        return "".join(found)


def is_iterator(value: Any) -> bool:
    """Whether items can be drawn from a value, once; not so from the `loop` of a template, which knows its length."""
    return isinstance(value, Iterator) and not isinstance(value, Sized)


def refuse_huge(bits: int) -> None:
    """Raise LimitError for a number that takes so many bits, if nobody could write it."""
    if bits > MAX_BITS:
        message = f"a number has more than {MAX_BITS // 10 * 3:,} digits; calculate with smaller ones, {_PREPARE}"
        raise LimitError(message)
