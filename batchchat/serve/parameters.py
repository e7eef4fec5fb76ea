"""The parameters beside model, messages, tools and response format -> `Parameters`, or `RefusedError`.

What passes in is the request as a mapping; what comes out has the defaults filled in. It does not know what becomes of
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchchat.serve.refusal import refused, shown

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20
_NUMBER_BOUNDS = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
_COUNT_BOUNDS = {
    "max_tokens": (1, None),
    "max_completion_tokens": (1, None),
    "n": (1, MAX_CHOICES),
    "seed": (None, None),
}
# Most requests have none of these, and a load test sends many.
_RARE = frozenset(
    {"max_completion_tokens", "n", "seed", "stop", "logprobs", "top_logprobs", "stream", "stream_options"}
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """How much is to be answered, and how it is delivered; `top_logprobs` None is no logprobs at all."""

    max_tokens: int | None = None
    choice_count: int = 1
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    is_streamed: bool = False
    has_usage_chunk: bool = False


DEFAULTS = Parameters()


def read_parameters(value: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a request. Raises RefusedError with status 400."""
    for name, bounds in _NUMBER_BOUNDS.items():
        if name in value:
            _check_number(name, value[name], *bounds)
    if _RARE.isdisjoint(value):
        _check_count("max_tokens", value.get("max_tokens"), 1, None)
        return Parameters(value.get("max_tokens"))
    for name, least_and_most in _COUNT_BOUNDS.items():
        _check_count(name, value.get(name), *least_and_most)
    limits = [limit for limit in (value.get("max_tokens"), value.get("max_completion_tokens")) if limit is not None]
    return Parameters(
        max_tokens=min(limits, default=None),
        choice_count=value.get("n") or 1,
        stops=_stops(value.get("stop")),
        top_logprobs=_top_logprobs(value.get("logprobs"), value.get("top_logprobs")),
        is_streamed=_flag("stream", value.get("stream")),
        has_usage_chunk=_includes_usage(value.get("stream_options")),
    )


def _check_number(name: str, number: Any, low: float, high: float) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
        raise refused(f"{name} is {shown(number)}; it must be a number from {low} to {high}")


def _check_count(name: str, number: Any, least: int | None, most: int | None) -> None:
    if number is None:
        return
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if is_whole and (least is None or number >= least) and (most is None or number <= most):
        return
    bounds = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
    raise refused(f"{name} is {shown(number)}; it must be a whole number{bounds}")


def _flag(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise refused(f"{name} is {shown(value)}; it must be true or false")
    return value is True


def _stops(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise refused(f"stop is {shown(stop)}; it must be a string or up to {MAX_STOPS} strings, none of them empty")
    return tuple(stops)


def _top_logprobs(is_asked: Any, count: Any) -> int | None:
    if not _flag("logprobs", is_asked):
        if count is not None:
            raise refused(f"top_logprobs is {shown(count)}; it needs logprobs to be true")
        return None
    _check_count("top_logprobs", count, 0, MAX_TOP_LOGPROBS)
    return count or 0


def _includes_usage(options: Any) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise refused(f"stream_options is {shown(options)}; it must be an object")
    return _flag("stream_options.include_usage", options.get("include_usage"))
