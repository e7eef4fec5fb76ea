"""The checkpoint's lock: one live holder, and none when it died."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from batchchat.checkpoint.lock import is_locked, lock_path, locked
from batchchat.errors import CheckpointError, CheckpointLockedError
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import ROOT, write_csv, write_job

pytestmark = pytest.mark.slow

HOLDER = """
import sys
from pathlib import Path
from batchchat.checkpoint.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

LOOKER = """
import fcntl, sys, time

with open(f"{sys.argv[1]}.lock", "r+b") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("ready", flush=True)
    time.sleep(1.0)
"""
"""What `is_locked` does, on a machine that lets it have the lock for longer than an instant."""

WATCHER = """
import sys
from pathlib import Path
from batchchat.checkpoint.lock import is_locked

print("ready", flush=True)
while True:
    is_locked(Path(sys.argv[1]))
"""


@contextmanager
def process(script: str, *arguments: str | Path | int) -> Iterator[subprocess.Popen[str]]:
    """Run a script; go on when it has said its first word; kill it in the end."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() in ("held\n", "ready\n")
            yield running
        finally:
            running.kill()


def test_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    """The error names the checkpoint, and its holder's process id and host, and exits with 3."""
    path = tmp_path / "c.sqlite"
    with process(HOLDER, path) as holder:
        owner = f"pid {holder.pid} on {socket.gethostname()}"
        expected = f"{path} is in use by a live run ({owner}); wait for it to end, or stop it"
        with pytest.raises(CheckpointLockedError, match=f"^{re.escape(expected)}$") as caught, locked(path):
            pass
    assert caught.value.exit_code == 3


def test_refused_start_leaves_the_holder_alone(tmp_path: Path) -> None:
    """A start that is refused neither takes the lock nor the holder's name from the file."""
    path = tmp_path / "c.sqlite"
    with process(HOLDER, path) as holder:
        for _ in range(3):
            with pytest.raises(CheckpointLockedError, match=f"pid {holder.pid} "), locked(path):
                pass
        assert is_locked(path)


def test_second_run_in_one_process_is_refused(tmp_path: Path) -> None:
    """Two runs of one job in one Python program are two runs."""
    path = tmp_path / "c.sqlite"
    with locked(path), pytest.raises(CheckpointLockedError, match=f"pid {os.getpid()} "), locked(path):
        pass


def test_lock_ends_with_its_block(tmp_path: Path) -> None:
    """The lock is free after the block, also after an error in it; its file stays, for removing it would be a race."""
    path = tmp_path / "c.sqlite"
    with pytest.raises(ZeroDivisionError), locked(path):
        assert 1 / 0
    assert not is_locked(path)
    with locked(path):
        pass
    assert lock_path(path) == tmp_path / "c.sqlite.lock"
    assert list(tmp_path.iterdir()) == [lock_path(path)]


def test_lock_is_gone_after_a_kill(tmp_path: Path) -> None:
    """A process that was killed blocks nobody: its lock goes when it goes."""
    path = tmp_path / "c.sqlite"
    with process(HOLDER, path) as holder:
        holder.kill()
        holder.wait(timeout=300)
        assert not is_locked(path)
        with locked(path):
            assert lock_path(path).read_text() == f"pid {os.getpid()} on {socket.gethostname()}"


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    """A process that the holder started, and that outlives it, does not keep the lock."""
    path = tmp_path / "c.sqlite"
    with ExitStack() as stack:
        with locked(path):
            command = [sys.executable, "-c", "print('ready', flush=True); input()"]
            child = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
            )
            stack.callback(child.kill)
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        with locked(path):
            assert child.poll() is None


# Starts a job in as many processes at once, and says what became of each as soon as it is known: `pid code`.
STARTS = """
import os, sys
import batchchat.commands.run
from batchchat.__main__ import main

start_read, start_write = os.pipe()
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        os.close(start_write)
        os.read(start_read, 1)
        sys.argv[1:] = ["run", sys.argv[1], "--quiet"]
        main()
print("ready", flush=True)
os.close(start_write)
while True:
    try:
        child, status = os.wait()
    except ChildProcessError:
        break
    print(child, os.waitstatus_to_exitcode(status), flush=True)
"""


def test_fifty_runs_at_once_are_one(tmp_path: Path) -> None:
    """Of fifty starts of one job one works, 49 exit 3 and name it; killed, it is in nobody's way."""
    write_csv(tmp_path / "rows.csv", ["a", "b"])
    with EmbeddedEndpoint(ServeSettings(latency_s=60)) as endpoint:
        job = write_job(tmp_path, endpoint={"base_url": endpoint.base_url})
        with process(STARTS, job, 50) as starts:
            assert starts.stdout is not None
            ended = [starts.stdout.readline().split() for _ in range(49)]
            assert {code for _, code in ended} == {"3"}
            checkpoint = tmp_path / ".batchchat" / "job.sqlite"
            owner = int(lock_path(checkpoint).read_text().split()[1])
            assert is_locked(checkpoint)
            assert str(owner) not in {child for child, _ in ended}
            os.kill(owner, signal.SIGKILL)
            assert starts.stdout.readline().split() == [str(owner), "-9"]
            with locked(checkpoint):
                pass


def test_lock_in_no_folder_is_refused(tmp_path: Path) -> None:
    """A lock file that cannot be made is an error of the checkpoint, with its path."""
    with (
        pytest.raises(CheckpointError, match=r"none/c\.sqlite\.lock: the lock file cannot be made"),
        locked(tmp_path / "none" / "c.sqlite"),
    ):
        pass


def test_looking_makes_no_lock_file(tmp_path: Path) -> None:
    """Asking whether a checkpoint that never ran is held says no, and leaves nothing behind."""
    assert not is_locked(tmp_path / "c.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_looking_sees_a_live_holder(tmp_path: Path) -> None:
    """A held checkpoint is seen as held, by its own process too, and as free afterwards."""
    path = tmp_path / "c.sqlite"
    with process(HOLDER, path):
        assert is_locked(path)
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)


@pytest.mark.slow
@pytest.mark.parametrize("left", [b"", b"pid 999999999 on HOST"])
def test_lock_that_no_live_run_has_is_waited_for(tmp_path: Path, left: bytes) -> None:
    """After a run that ended, or was killed, whoever has the lock only looks at it."""
    path = tmp_path / "c.sqlite"
    lock_path(path).write_bytes(left.replace(b"HOST", socket.gethostname().encode()))
    with process(LOOKER, path), locked(path):
        assert f"pid {os.getpid()}".encode() in lock_path(path).read_bytes()
    assert lock_path(path).read_bytes() == b""


def test_looking_never_blocks_a_start(tmp_path: Path) -> None:
    """However often another process asks for the status, a run can start."""
    path = tmp_path / "c.sqlite"
    with locked(path):
        pass
    with process(WATCHER, path):
        for _ in range(5_000):
            with locked(path):
                pass
