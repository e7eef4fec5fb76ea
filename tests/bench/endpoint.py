"""The endpoint that is measured against: nginx with its Lua module, started in a folder of its own.

`endpoint.lua` is what runs within it.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tests.bench.cores import pin

MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
INSTALL = "sudo apt-get install nginx libnginx-mod-http-lua"
LONGEST_START_S = 5.0

_CONFIG = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
events {{ worker_connections 10000; multi_accept on; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600;
  tcp_nodelay on;
  client_body_buffer_size 64k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  lua_package_path "{code}/?.lua;;";
  init_worker_by_lua_block {{ require("endpoint").start({settings}) }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /v1/chat/completions {{ content_by_lua_block {{ require("endpoint").complete() }} }}
    location = /stats {{ content_by_lua_block {{ require("endpoint").stats() }} }}
    location = /reset {{ content_by_lua_block {{ require("endpoint").reset() }} }}
    location / {{ return 404; }}
  }}
}}
"""


class MissingError(Exception):
    """Something that the benchmarks need is not installed; the message says what, and how to install it."""


@dataclass(frozen=True)
class Behaviour:
    """How the endpoint behaves; 0 is no latency, no bound on what it works at, and no limit.

    With `slots`, so many requests are worked at for `latency_s` each, and the others queue. The limits let in what
    comes evenly, and `burst_s` seconds' worth of it at once; what is above is answered with 429 and a Retry-After in
    whole seconds. `says_limits`: replies have `x-ratelimit-*` headers, which speak of the whole minute.
    """

    latency_s: float = 0.0
    slots: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    burst_s: float = 1.0
    says_limits: bool = False

    def as_lua(self) -> str:
        """Return the behaviour as a Lua table."""
        fields = {**vars(self), "says_limits": str(self.says_limits).lower()}
        return "{" + ", ".join(f"{name} = {value}" for name, value in fields.items()) + "}"


@dataclass(frozen=True)
class Stats:
    """What the endpoint counted since its last reset; `first_at` and `last_at` are seconds of the wall clock.

    `answers`, `refusals` and `tokens` are those of each second since the first request.
    """

    received: int
    answered: int
    refused: int
    most_in_flight: int
    first_at: float
    last_at: float
    answers: Sequence[int]
    refusals: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    root: str

    @property
    def base_url(self) -> str:
        """What clients are given."""
        return f"{self.root}/v1"

    def reset(self) -> None:
        """Forget what was counted, and fill the limits."""
        _get(f"{self.root}/reset")

    def stats(self) -> Stats:
        """Return what was counted."""
        found: dict[str, Any] = json.loads(_get(f"{self.root}/stats"))
        return Stats(**found)


@dataclass(frozen=True)
class Nginx:
    """The program, and the folder of its modules."""

    program: str
    modules: Path


def find_nginx(search_path: str | None = None) -> Nginx:
    """Return nginx with its Lua module; `search_path` are folders as in PATH, by default PATH and the system's.

    Raises:
        MissingError: nginx, or one of the two modules, is not there.
    """
    program = shutil.which("nginx", path=search_path)
    if program is None and search_path is None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")  # not in everyone's PATH
    if program is None:
        message = f"the endpoint of the benchmarks is nginx with its Lua module, and there is no nginx; {INSTALL}"
        raise MissingError(message)
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stderr
    stated = re.search(r"--modules-path=(\S+)", built)
    modules = Path(stated[1] if stated else "/usr/lib/nginx/modules")
    if lacking := [name for name in MODULES if not (modules / name).exists()]:
        message = f"nginx is at {program}, but its Lua module is not: {modules} has no {', '.join(lacking)}; {INSTALL}"
        raise MissingError(message)
    return Nginx(program, modules)


@contextmanager
def running_endpoint(folder: Path, behaviour: Behaviour, core: int | None) -> Iterator[Endpoint]:
    """Run the endpoint on a core, with its files in a new folder within `folder`.

    Raises:
        MissingError: nginx is not there, or does not start.
    """
    nginx, port = find_nginx(), _free_port()
    home = folder / f"nginx-{port}"
    home.mkdir(parents=True)
    code = Path(__file__).parent
    config = _CONFIG.format(folder=home, modules=nginx.modules, code=code, settings=behaviour.as_lua(), port=port)
    (home / "nginx.conf").write_text(config)
    command = [nginx.program, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            _prepare(process.pid, core)
            endpoint = Endpoint(f"http://127.0.0.1:{port}")
            _wait_until_up(endpoint, process, home / "error.log")
            yield endpoint
        finally:
            process.kill()


def _prepare(pid: int, core: int | None) -> None:
    pin(pid, core)
    if sys.platform == "linux":
        import resource  # not on Windows, as the types know

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def _wait_until_up(endpoint: Endpoint, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + LONGEST_START_S
    while True:
        try:
            return endpoint.reset()
        except (URLError, OSError):
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
        said = errors.read_text().strip() if errors.exists() else ""
        message = f"nginx did not start: {said.splitlines()[-1] if said else 'it says nothing'}"
        raise MissingError(message)


def _get(url: str) -> bytes:
    with urlopen(url, timeout=5.0) as reply:
        body: bytes = reply.read()
    return body


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port
