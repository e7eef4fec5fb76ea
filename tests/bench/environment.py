"""On what the figures were measured: the machine, and the versions of what took part."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.cores import Cores

PACKAGES = ("batchchat", "openai", "httpx2", "aiohttp", "saturate", "uvloop", "orjson", "pyarrow")


def describe(cores: Cores) -> str:
    """Return the machine and the versions, in a paragraph."""
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {cores.note}; {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
