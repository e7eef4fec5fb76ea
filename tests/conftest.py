"""What holds for all tests."""

import signal
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", parent=settings.get_profile("any machine"), max_examples=20)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Look at fewer examples in `make quick`."""
    if config.getoption("markexpr") == "not slow":
        settings.load_profile("quick")


STARTS_OF_PROCESSES = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen"}
_may_start_processes = True


def _refuse_processes(event: str, args: tuple[Any, ...]) -> None:
    if event in STARTS_OF_PROCESSES and not _may_start_processes:
        message = f"a test that is not marked `slow` starts a process: {args[:2]!r}"
        raise RuntimeError(message)


sys.addaudithook(_refuse_processes)

# Under `nohup`, or in the background of a script, signals are ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep tests that are not marked `slow` from starting processes: `make quick` runs them all."""
    global _may_start_processes  # noqa: PLW0603 -- an audit hook cannot be taken back
    _may_start_processes = item.get_closest_marker("slow") is not None
    try:
        return (yield)
    finally:
        _may_start_processes = True


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Return where an endpoint answers."""
    from batchchat.serve.server import EmbeddedEndpoint
    from batchchat.serve.settings import ServeSettings

    with EmbeddedEndpoint(ServeSettings()) as endpoint:
        yield endpoint.base_url
