"""The Jinja environment in which a job's templates run: sandboxed, strict, deterministic, bounded.

Row values are data and are never compiled. It does not know the job file, requests or rows.
"""

from collections.abc import Callable, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Namespace

from batchchat.prompt.bounds import LimitError, Meter, refuse_huge
from batchchat.prompt.counting import CountingTransformer
from batchchat.prompt.filters import filters, tests
from batchchat.prompt.methods import MeteredFormatter, call_method, is_listed, refuse_wide
from batchchat.prompt.plain import as_text, json_value, to_json

__all__ = ["LimitError", "RowEnvironment", "as_text", "json_value", "row_environment", "to_json"]

MAX_RANGE = 100_000
"""Numbers in a `range`."""

_STEPS_OF_A_MACRO = 9  # it takes some ten times as long as a round of a loop
_RECURSIVE = (Macro, BlockReference, LoopContext)
_JINJA_METHODS = {LoopContext: ("changed", "cycle"), Cycler: ("next", "reset")}


class RowEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with every operation counted by `meter`, and a short list of methods.

    A struct's field wins over a mapping's method of the same name. Nothing is folded when a template is compiled:
    what it makes is made for a row, and within that row's bounds.
    """

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self) -> None:
        self.meter = Meter()
        super().__init__(undefined=StrictUndefined, finalize=_finalized, keep_trailing_newline=True, optimized=False)
        self.filters.clear()
        self.filters.update(filters(self.meter))
        self.tests.clear()
        self.tests.update(tests(self.meter))
        # Compiled templates take `concat` from the environment.
        self.__dict__["concat"] = self.meter.joined
        del self.globals["lipsum"]
        self.globals["range"] = _bounded_range

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        counting: nodes.Template = CountingTransformer().visit(source)
        counting.set_environment(self)
        return super()._generate(counting, *args, **kwargs)

    def text(self, value: Any) -> Any:
        """Return `as_text(value)`, what it holds counted before.

        Raises:
            LimitError: it holds too much.
            ValueError: as `as_text`.
        """
        if type(value) is str:
            return value
        if isinstance(value, (list, tuple, dict)):
            self.meter.require_characters(self.meter.weigh(value))
        return as_text(value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`; for a struct that has such a field, the field: `meta.items` is data, not a method."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return `obj[argument]`."""
        if isinstance(argument, tuple):
            self.meter.weigh(argument)  # it is hashed as deep as it goes
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse what Jinja's sandbox does, and every method that is not listed: `day.today()` reads a clock."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if not callable(value) or isinstance(obj, (Namespace, Undefined)) or isinstance(value, _RECURSIVE):
            return True
        return attr in _JINJA_METHODS.get(type(obj), ()) or is_listed(obj, attr)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Return what says, once it is used, that a template cannot have this attribute."""
        message = (
            f"`{attribute}` of a value of type {type(obj).__name__} is not available in a template; use a filter, or"
            " prepare a column before the run"
        )
        return self.undefined(message, name=attribute, obj=obj, exc=SecurityError)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return the counted `str.format` or `str.format_map` for Python's own, None for anything else."""
        is_method = isinstance(value, (BuiltinMethodType, MethodType))
        if not is_method or value.__name__ not in ("format", "format_map") or not isinstance(value.__self__, str):
            return None
        text, formatter = value.__self__, MeteredFormatter(self, self.meter)
        if value.__name__ == "format_map":
            return lambda names, /: formatter.vformat(text, (), names)
        return lambda *args, **kwargs: formatter.vformat(text, args, kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return `left operator right`.

        Raises:
            LimitError: it would be too long, or too large a number.
        """
        self.meter.take_steps(1)
        _CHECKS[operator](self.meter, left, right)
        return self.meter.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return `called(*args, **kwargs)`.

        Raises:
            LimitError: it does too much, or calls itself too deep.
            SecurityError: it must not be called.
        """
        self.meter.take_steps(1)
        if isinstance(called, _RECURSIVE):
            return self._call_deeper(context, called, *args, **kwargs)
        if isinstance(called, BuiltinMethodType) and is_listed(called.__self__, called.__name__):
            kwargs = {name: value for name, value in kwargs.items() if name not in _OF_JINJA}
            return self.meter.made(call_method(self.meter, called, args, kwargs))
        for value in (*args, *(value for name, value in kwargs.items() if name not in _OF_JINJA)):
            self.meter.weigh(value)
        return self.meter.made(super().call(context, called, *args, **kwargs))

    def _call_deeper(self, context: Context, called: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(called, LoopContext):
            args = tuple(map(self.meter.counted, args))
        self.meter.take_steps(_STEPS_OF_A_MACRO)
        self.meter.enter()
        try:
            return super().call(context, called, *args, **kwargs)
        finally:
            self.meter.level -= 1


_OF_JINJA = ("_block_vars", "_loop_vars")
"""Arguments that compiled templates add to every call."""


@pass_environment  # which also keeps Jinja from applying it when it compiles
def _finalized(environment: RowEnvironment, value: Any) -> Any:
    return environment.text(value)


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers[: MAX_RANGE + 1]) > MAX_RANGE:
        message = f"range: {bounds} has more than {MAX_RANGE:,} numbers; loop over less"
        raise LimitError(message)
    return numbers


def _check_sum(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, (str, bytes)) and isinstance(right, (str, bytes)):
        meter.require_characters(len(left) + len(right))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        meter.take_steps(len(left) + len(right))


def _check_difference(meter: Meter, left: Any, right: Any) -> None:
    meter.weigh(left)
    meter.weigh(right)


def _check_product(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        refuse_huge(left.bit_length() + right.bit_length())
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, bytes)) and isinstance(times, int):
            meter.require_characters(len(value) * times)
        if isinstance(value, (list, tuple)) and isinstance(times, int):
            meter.take_steps(max(len(value) * times, 0))


def _check_power(_: Meter, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        refuse_huge(left.bit_length() * right)


def _check_remainder(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, (str, bytes)):
        refuse_wide(meter, left if isinstance(left, str) else left.decode("latin-1"), right)


_CHECKS: Mapping[str, Callable[[Meter, Any, Any], None]] = {
    "+": _check_sum,
    "-": _check_difference,
    "*": _check_product,
    "**": _check_power,
    "%": _check_remainder,
}


def row_environment() -> RowEnvironment:
    """Return a new environment; nothing in it depends on the clock, on chance, on files or on the process."""
    return RowEnvironment()
