"""The checkpoint: what was committed is there, what is damaged is refused, and other processes may look on."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchchat.checkpoint.files import prepare_folder, set_aside
from batchchat.checkpoint.schema import APPLICATION_ID, MIGRATIONS
from batchchat.checkpoint.store import Checkpoint, open_checkpoint
from batchchat.checkpoint.tables import checksum
from batchchat.errors import CheckpointDamagedError, CheckpointError, CheckpointForeignError, CheckpointNewerError
from batchchat.records import Answer, Completion, FailedRow, Failure, Outcome, Progress, Settled, ToolCall, Usage
from batchchat.runs import FailureGroup, RunRecord
from tests.running import ROOT

NOBODY = 65534
PAGE_BYTES = 4096

# Commits groups of three keys for ever; says a group's number when its commit has returned.
WRITER = """
import sys
from itertools import count
from pathlib import Path
from typing import Any
from batchchat.checkpoint.store import open_checkpoint
from batchchat.records import Answer, Completion, Progress

with open_checkpoint(Path(sys.argv[1])) as checkpoint:
    checkpoint.start_run(1_000_000)
    for group in count(1):
        outcomes = [
            (f"{group}/{part}".encode(), Answer(Completion(f"{group}/{part}"), b"x" * 500, 0.1, 1)) for part in range(3)
        ]
        checkpoint.commit(outcomes, Progress(rows_answered=3 * group, in_flight_bound=7))
        print(group, flush=True)
"""

# Reads a checkpoint as a user who may not write to its folder: root is above permissions. That user may not be able to
# read Python's library either, and pathlib imports urllib late.
READER = f"""
import os, sys, urllib.request
from pathlib import Path
from typing import Any
from batchchat.checkpoint.store import open_checkpoint

if os.geteuid() == 0:
    os.setgroups([])
    os.setegid({NOBODY})
    os.seteuid({NOBODY})
with open_checkpoint(Path(sys.argv[1]), is_read_only=True) as checkpoint:
    print(checkpoint.answer_count(), checkpoint.outcomes([b"key"])[0].completion.content)
"""

# Lists the modes of everything that a run makes, while the checkpoint is open.
MODES = """
import json, os, sys
from pathlib import Path
from typing import Any
from batchchat.checkpoint.store import open_checkpoint
from batchchat.checkpoint.files import prepare_folder
from batchchat.checkpoint.lock import locked

path = Path(sys.argv[1])
prepare_folder(path)
with locked(path), open_checkpoint(path) as checkpoint:
    checkpoint.start_run(1)
    files = [path.parent, *sorted(path.parent.iterdir())]
    print(json.dumps({file.name: oct(file.stat().st_mode & 0o777) for file in files}))
"""

# Commits one answer, then one that no longer fits on the "disk", then says what is stored.
FULL_DISK = """
import resource, sys
from pathlib import Path
from typing import Any
from batchchat.errors import CheckpointError
from batchchat.checkpoint.store import open_checkpoint
from batchchat.records import Answer, Completion, Progress

def answer(size):
    return Answer(Completion("x" * size), b"", 0.1, 1)

with open_checkpoint(Path(sys.argv[1])) as checkpoint:
    checkpoint.start_run(3)
    checkpoint.commit([(b"before", answer(10))], Progress(rows_answered=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        checkpoint.commit([(b"small", answer(10)), (b"large", answer(1_000_000))], Progress(rows_answered=3))
    except CheckpointError:
        print("refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print(sorted(checkpoint.find([b"before", b"small", b"large"])), checkpoint.last_run().progress.rows_answered)
    checkpoint.commit([(b"after", answer(10))], Progress(rows_answered=2))
    print(sorted(checkpoint.find([b"before", b"after"])))
"""


def answered(text: str = "yes") -> Answer:
    """Return an answer with this completion."""
    return Answer(Completion(text), b'{"id": "x"}', 0.5, 1)


def given_up(message: str = "no", *, kind: str = "server", is_transient: bool = True) -> FailedRow:
    """Return a row that was given up."""
    return FailedRow(Failure(kind, message, 500), is_transient, 0.5, 6)


@contextmanager
def started(path: Path) -> Iterator[Checkpoint]:
    """Open a checkpoint and begin a run."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.start_run(10)
        yield checkpoint


def filled(path: Path, count: int = 300) -> dict[bytes, Outcome]:
    """Make a checkpoint of several pages in each table, and return what it holds."""
    outcomes: dict[bytes, Outcome] = {}
    for number in range(count):
        outcomes[f"answer {number}".encode()] = replace(answered(f"text {number} " * 20), reply=b"")
        outcomes[f"failure {number}".encode()] = given_up(f"reason {number} " * 10)
    with started(path) as checkpoint:
        checkpoint.commit(list(outcomes.items()), Progress(rows_answered=count, rows_failed=count))
        checkpoint.remember("https://one", "model", Settled(8))
    return outcomes


def read_all(path: Path, keys: list[bytes], *, is_read_only: bool) -> list[Outcome | None]:
    """Read everything that a checkpoint has."""
    with open_checkpoint(path, is_read_only=is_read_only) as checkpoint:
        checkpoint.last_run()
        checkpoint.answer_count()
        checkpoint.failure_groups(10)
        checkpoint.remembered("https://one", "model")
        checkpoint.find(keys)
        return checkpoint.outcomes(keys)


def last_run_of(checkpoint: Checkpoint) -> RunRecord:
    """Return the newest run, which is there."""
    run = checkpoint.last_run()
    assert run is not None
    return run


def kept_answers(path: Path) -> int:
    """Return how many answers a checkpoint has."""
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        return checkpoint.answer_count()


def database(path: Path) -> closing[sqlite3.Connection]:
    """Open a file as any other program would."""
    return closing(sqlite3.connect(path, isolation_level=None))


def script(text: str, *arguments: str | Path, umask: int = -1) -> str:
    """Run a script in a process of its own, and return what it prints."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, umask=umask, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def killed_writer(path: Path, group_count: int) -> int:
    """Kill a process (SIGKILL) that commits, after it said that so many groups are; return the last it spoke of."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(group_count):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().split("\n")
    return group_count + len(rest) - 1


texts = st.text(st.characters(exclude_categories=["Cs"]))
counts = st.none() | st.integers(0, 2**63 - 1)
completions = st.builds(
    Completion,
    content=st.none() | texts,
    tool_calls=st.lists(st.builds(ToolCall, st.none() | texts, st.none() | texts, st.none() | texts), max_size=3).map(
        tuple
    ),
    reasoning=st.none() | texts,
    refusal=st.none() | texts,
    finish_reason=st.none() | texts,
    usage=st.builds(Usage, counts, counts, counts, counts, counts, st.none() | st.floats(0, 1e6)),
    model=st.none() | texts,
    response_id=st.none() | texts,
)
seconds = st.floats(0, 1e6)
answers = st.builds(Answer, completions, st.binary(), seconds, st.integers(1, 1000))
failures = st.builds(
    Failure,
    kind=texts,
    message=texts,
    status=st.none() | st.integers(100, 599),
    code=st.none() | texts,
    request_id=st.none() | texts,
)
failed_rows = st.builds(FailedRow, failures, st.booleans(), st.none() | seconds, st.integers(0, 1000))


@pytest.mark.slow
@settings(max_examples=60)
@given(outcomes=st.dictionaries(st.binary(min_size=1), answers | failed_rows, max_size=5))
def test_outcomes_round_trip_exactly(outcomes: dict[bytes, Outcome]) -> None:
    """Every outcome is read as it was committed, by a later process; the reply is read apart."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.sqlite")
        with started(path) as checkpoint:
            checkpoint.commit(list(outcomes.items()), Progress())
        with open_checkpoint(path, is_read_only=True) as checkpoint:
            expected = [
                replace(outcome, reply=b"") if isinstance(outcome, Answer) else outcome for outcome in outcomes.values()
            ]
            assert checkpoint.outcomes(list(outcomes)) == expected
            assert checkpoint.outcomes(list(outcomes), with_replies=True) == list(outcomes.values())


def test_failures_wishes_are_not_kept(tmp_path: Path) -> None:
    """What a failure says about the next attempt is of no use once the row is given up."""
    failure = Failure("server", "down", 503, retry_after_s=3.0, is_outcome_unknown=True)
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"key", FailedRow(failure, True, 0.5, 6))], Progress())
        kept = FailedRow(Failure("server", "down", 503), True, 0.5, 6)
        assert checkpoint.outcomes([b"key"]) == [kept]


def test_outcomes_stand_in_the_order_asked(tmp_path: Path) -> None:
    """Outcomes are returned by position; an unknown key and no key give None."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"a", given_up("a")), (b"b", given_up("b"))], Progress())
        asked = [b"b", None, b"a", b"unknown", b"b"]
        assert checkpoint.outcomes(asked) == [given_up("b"), None, given_up("a"), None, given_up("b")]


def test_answer_takes_the_place_of_failure(tmp_path: Path) -> None:
    """A key that is answered has no failure any more."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"key", given_up())], Progress())
        checkpoint.commit([(b"key", answered())], Progress())
        assert checkpoint.outcomes([b"key"]) == [replace(answered(), reply=b"")]
        assert checkpoint.failure_groups(10) == []


def test_failure_never_takes_an_answers_place(tmp_path: Path) -> None:
    """A failure that is committed after the answer, or with it, changes nothing."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"later", answered())], Progress())
        checkpoint.commit([(b"later", given_up()), (b"same", answered()), (b"same", given_up())], Progress())
        assert checkpoint.outcomes([b"later", b"same"]) == [replace(answered(), reply=b"")] * 2
        assert checkpoint.find([b"later", b"same"]) == {b"later": True, b"same": True}


def test_newer_failure_replaces_the_older(tmp_path: Path) -> None:
    """A key that fails again has its last reason."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"key", given_up("first"))], Progress())
        checkpoint.commit([(b"key", given_up("second"))], Progress())
        assert checkpoint.outcomes([b"key"]) == [given_up("second")]
        assert checkpoint.failure_groups(10) == [FailureGroup("server", "second", 1)]


def test_rare_kind_of_failure_is_not_left_out_for_many_messages_of_another(tmp_path: Path) -> None:
    """Whose every message is another, as those that repeat the prompt, leaves the other kinds their place."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        often: list[tuple[bytes, Outcome]] = [
            (f"{number}/{part}".encode(), given_up(f"message {number}")) for number in range(20) for part in range(3)
        ]
        rare = given_up("filtered", kind="content_filter", is_transient=False)
        checkpoint.commit([*often, (b"rare", rare)], Progress())
        groups = checkpoint.failure_groups(10)
    assert [group.count for group in groups] == [3] * 9 + [1]
    assert groups[-1].kind == "content_filter"


OF_EACH_KIND: list[tuple[bytes, Outcome]] = [
    (b"answer", answered()),
    (b"transient", given_up()),
    (b"final", given_up(is_transient=False)),
]
KEYS = [b"answer", b"transient", b"final", b"unknown"]


def test_find_in_the_run_has_all_outcomes(tmp_path: Path) -> None:
    """What this run gave up needs no further request in it, whatever the reason."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit(OF_EACH_KIND, Progress())
        expected = {b"answer": True, b"transient": False, b"final": False}
        assert checkpoint.find(KEYS) == expected
        assert checkpoint.find(KEYS, retries_final=True) == expected
        assert checkpoint.find([]) == {}


def test_find_in_the_next_run_drops_transient(tmp_path: Path) -> None:
    """The next run asks again what failed for the moment, but not what failed for good."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit(OF_EACH_KIND, Progress())
    with started(tmp_path / "c.sqlite") as checkpoint:
        assert checkpoint.find(KEYS) == {b"answer": True, b"transient": None, b"final": False}


def test_find_retrying_final_drops_old_failures(tmp_path: Path) -> None:
    """With `retries_final` only answers, and the failures of this very run, need no request."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit(OF_EACH_KIND, Progress())
    with started(tmp_path / "c.sqlite") as checkpoint:
        assert checkpoint.find(KEYS, retries_final=True) == {b"answer": True, b"transient": None, b"final": None}
        checkpoint.commit([(b"final", given_up(is_transient=False))], Progress())
        assert checkpoint.find(KEYS, retries_final=True) == {b"answer": True, b"transient": None, b"final": False}


def test_refused_commit_stores_nothing(tmp_path: Path) -> None:
    """A commit of which one outcome cannot be stored leaves no trace, and the next works."""
    unstorable = replace(answered(), latency_s=float("nan"))  # SQLite stores NaN as null, which the schema refuses
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"before", given_up())], Progress(rows_failed=1))
        with pytest.raises(CheckpointError):
            checkpoint.commit([(b"before", answered()), (b"bad", unstorable)], Progress(rows_answered=2))
        assert checkpoint.outcomes([b"before", b"bad"]) == [given_up(), None]
        assert last_run_of(checkpoint).progress == Progress(rows_failed=1)
        checkpoint.commit([(b"after", answered())], Progress(rows_answered=1))
        assert checkpoint.find([b"after"]) == {b"after": True}


@pytest.mark.slow
def test_full_disk_stores_nothing(tmp_path: Path) -> None:
    """A commit that the disk has no room for is refused as a whole; with room again, the same process goes on."""
    assert script(FULL_DISK, tmp_path / "c.sqlite").splitlines() == [
        "refused",
        "[b'before'] 1",
        "[b'after', b'before']",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("group_count", [1, 3, 20, 150])
def test_kill_loses_no_reported_commit(tmp_path: Path, group_count: int) -> None:
    """After a SIGKILL every commit that had returned is there, at most one more is, and none in part."""
    path = tmp_path / "c.sqlite"
    reported = killed_writer(path, group_count)
    with open_checkpoint(path) as checkpoint:
        groups = range(1, reported + 3)
        stored = [len(checkpoint.find([f"{group}/{part}".encode() for part in range(3)])) for group in groups]
        assert stored in ([3] * reported + [0, 0], [3] * (reported + 1) + [0])
        run = last_run_of(checkpoint)
        assert run.progress.rows_answered == sum(stored)
        assert (run.ended_at, run.lost_in_flight) == (None, 7)


def test_journal_is_wal_and_synchronous_full(tmp_path: Path) -> None:
    """A commit is on the disk when it returns, power cut or not."""
    opened: list[sqlite3.Connection] = []
    is_listening = True

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if is_listening and event == "sqlite3.connect/handle":
            opened.append(args[0])

    sys.addaudithook(listen)  # `synchronous` belongs to a connection: no other can ask for it
    with open_checkpoint(tmp_path / "c.sqlite"):
        assert opened[-1].execute("PRAGMA synchronous").fetchone() == (2,)
        assert opened[-1].execute("PRAGMA journal_mode").fetchone() == ("wal",)
    is_listening = False
    opened.clear()


def test_file_says_what_it_is(tmp_path: Path) -> None:
    """The header has the application id and the schema's version, where SQLite and file(1) look for them."""
    filled(tmp_path / "c.sqlite", 1)
    header = (tmp_path / "c.sqlite").read_bytes()[:100]
    assert header.startswith(b"SQLite format 3\0")
    assert struct.unpack(">I", header[68:72]) == (APPLICATION_ID,)
    assert struct.unpack(">I", header[60:64]) == (len(MIGRATIONS),)


@pytest.mark.parametrize("is_read_only", [False, True])
def test_newer_version_is_refused(tmp_path: Path, is_read_only: bool) -> None:
    """A checkpoint of a newer batchchat is left alone, and both versions are named."""
    path = tmp_path / "c.sqlite"
    filled(path, 1)
    with database(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with (
        pytest.raises(CheckpointNewerError, match=rf"has version {len(MIGRATIONS) + 1}.* up to version") as caught,
        open_checkpoint(path, is_read_only=is_read_only),
    ):
        pass
    assert caught.value.exit_code == 3
    assert path.read_bytes() == before


@pytest.mark.parametrize("is_read_only", [False, True])
@pytest.mark.parametrize("content", [b"id,text\n1,hello\n" * 50, b"\0" * 8192, os.urandom(8192)])
def test_file_that_is_not_sqlite_is_refused(tmp_path: Path, content: bytes, is_read_only: bool) -> None:
    """A file of another kind under the checkpoint's name is refused and not changed."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    with pytest.raises(CheckpointDamagedError), open_checkpoint(path, is_read_only=is_read_only):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("is_read_only", [False, True])
def test_another_programs_database_is_refused(tmp_path: Path, is_read_only: bool) -> None:
    """Another program's SQLite file is refused, with the way out, and not changed."""
    path = tmp_path / "c.sqlite"
    with database(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    before = path.read_bytes()
    with (
        pytest.raises(CheckpointForeignError, match="not a checkpoint of batchchat; name another"),
        open_checkpoint(path, is_read_only=is_read_only),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("is_read_only", [False, True])
@pytest.mark.parametrize("kept_share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_truncated_file_is_refused(tmp_path: Path, kept_share: float, is_read_only: bool) -> None:
    """A file that lost its end is refused as damaged when it is opened or read, by no other exception."""
    path = tmp_path / "c.sqlite"
    outcomes = filled(path)
    size = path.stat().st_size
    os.truncate(path, int(size * kept_share))
    with pytest.raises(CheckpointDamagedError) as caught:
        read_all(path, list(outcomes), is_read_only=is_read_only)
    assert caught.value.exit_code == 3
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


@pytest.mark.slow
@pytest.mark.parametrize("is_read_only", [False, True])
def test_zeroed_page_gives_no_wrong_answer(tmp_path: Path, is_read_only: bool) -> None:
    """Whichever page is lost, reading is refused as damaged, or gives exactly what was stored."""
    whole = tmp_path / "whole.sqlite"
    outcomes = filled(whole, 100)
    content = whole.read_bytes()
    page_count = len(content) // PAGE_BYTES
    refused = 0
    for page in range(page_count):
        path = tmp_path / f"{page}.sqlite"
        path.write_bytes(content[: page * PAGE_BYTES] + bytes(PAGE_BYTES) + content[(page + 1) * PAGE_BYTES :])
        try:
            assert read_all(path, list(outcomes), is_read_only=is_read_only) == list(outcomes.values())
        except CheckpointDamagedError:
            refused += 1
    assert page_count > 20
    assert refused >= page_count - 7  # the rest are what reading does not need: indexes, and tables without rows


CHANGES_OF_ANSWERS = [
    "key = x'00' || substr(key, 2)",
    "run = run + 1",
    "latency_s = latency_s + 1",
    "attempts = attempts + 1",
    "fields = CAST(replace(fields, 'yes', 'yet') AS BLOB)",
    "fields = x'7b7d'",
    "reply = x'00'",
    "first_token_s = 0.5",
    "checksum = x'0000000000000000'",
]


@pytest.mark.parametrize("change", CHANGES_OF_ANSWERS)
def test_changed_answer_counts_as_not_there(tmp_path: Path, change: str) -> None:
    """Whatever differs from what was stored, the key has no answer, and may get another."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"key", answered())], Progress())
        with database(tmp_path / "c.sqlite") as connection:
            connection.execute(f"UPDATE answers SET {change}")
        assert checkpoint.find([b"key"]) == {}
        assert checkpoint.outcomes([b"key"], with_replies=True) == [None]
        assert checkpoint.damaged_count == (0 if change.startswith("key") else 2)
        checkpoint.commit([(b"key", answered("again"))], Progress())
        assert checkpoint.find([b"key"]) == {b"key": True}
        assert checkpoint.outcomes([b"key"], with_replies=True) == [answered("again")]


@pytest.mark.parametrize(
    "change", ["message = 'other'", "kind = x'00'", "status = 200", "is_transient = 1", "run = 7", "checksum = x'00'"]
)
def test_changed_failure_counts_as_not_there(tmp_path: Path, change: str) -> None:
    """A failure that is not as it was stored neither stands nor is shown: its row is asked again."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"key", given_up(is_transient=False))], Progress())
        with database(tmp_path / "c.sqlite") as connection:
            connection.execute(f"UPDATE failures SET {change}")
        assert checkpoint.find([b"key"]) == {}
        assert checkpoint.outcomes([b"key"]) == [None]
        assert checkpoint.failure_groups(10) == []
        assert checkpoint.damaged_count == 2


def test_row_that_the_index_leads_to_by_mistake_is_not_the_answer(tmp_path: Path) -> None:
    """An index whose entries have changed places gives nobody another row's answer."""
    path = tmp_path / "c.sqlite"
    keys = [bytes([number]) * 32 for number in (1, 2)]
    with started(path) as checkpoint:
        checkpoint.commit([(key, answered(f"of {key[0]}")) for key in keys], Progress())
    content = path.read_bytes()
    # An entry of the index is the key and the row's number, which is 1 (a type without bytes) or 2.
    first, second = (content.rindex(key) for key in keys)
    swapped = {first: keys[1], second: keys[0]}
    for at, key in swapped.items():
        content = content[:at] + key + content[at + 32 :]
    path.write_bytes(content)
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        for key, outcome in zip(keys, checkpoint.outcomes(keys), strict=True):
            assert outcome is None or outcome == replace(answered(f"of {key[0]}"), reply=b"")
        assert checkpoint.outcomes(keys).count(None) > 0


@pytest.mark.parametrize(
    "change", ["progress = x'00'", "rows_total = 11", "end_reason = 'finished'", "checksum = x'00'"]
)
def test_changed_run_counts_as_not_there(tmp_path: Path, change: str) -> None:
    """A record of a run that is not as it was written is passed over for the one before it, and stops nobody."""
    path = tmp_path / "c.sqlite"
    for _ in range(2):
        with started(path):
            pass
    with database(path) as connection:
        connection.execute(f"UPDATE runs SET {change} WHERE run = 2")
    with open_checkpoint(path) as checkpoint:
        assert last_run_of(checkpoint).run == 1
        checkpoint.start_run(10)
        assert last_run_of(checkpoint).run == 3


@pytest.mark.slow
def test_reading_works_while_another_writes(tmp_path: Path) -> None:
    """A reader sees every commit that has returned in the writing process, and stops neither."""
    path = tmp_path / "c.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            group = int(writer.stdout.readline())
            with open_checkpoint(path, is_read_only=True) as checkpoint:
                assert checkpoint.answer_count() >= 3 * group
                assert last_run_of(checkpoint).pid == writer.pid
                assert None not in checkpoint.outcomes([f"{group}/{part}".encode() for part in range(3)])
        assert writer.poll() is None
        writer.kill()


def test_read_only_open_changes_nothing(tmp_path: Path) -> None:
    """A reader cannot write, and leaves the file as it was."""
    path = tmp_path / "c.sqlite"
    filled(path, 5)
    before = path.read_bytes()
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        with pytest.raises(CheckpointError, match="readonly"):
            checkpoint.start_run(1)
        assert checkpoint.answer_count() == 5
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder_mode",
    [
        0o777,
        0o555,
    ],
)
def test_read_only_copy_is_readable(folder_mode: int) -> None:
    """A copy that its reader may not write to, in a folder that may be read-only too, can be read."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to other users
        folder = Path(name)
        with started(folder / "c.sqlite") as checkpoint:
            checkpoint.commit([(b"key", answered("kept"))], Progress())
        (folder / "c.sqlite").chmod(0o444)
        folder.chmod(folder_mode)
        try:
            assert script(READER, folder / "c.sqlite") == "1 kept\n"
        finally:
            folder.chmod(0o700)


def test_missing_checkpoint_is_not_made_by_reading(tmp_path: Path) -> None:
    """Reading a checkpoint that is not there says how to get one, and makes none."""
    with (
        pytest.raises(CheckpointError, match="there is no checkpoint; `batchchat run` makes one"),
        open_checkpoint(tmp_path / "c.sqlite", is_read_only=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_all_files_are_their_owners_alone(tmp_path: Path, umask: int) -> None:
    """Prompts and answers are private, and their owner's, whatever the umask: both folders and every file in them."""
    modes = json.loads(script(MODES, tmp_path / "made" / "too" / "c.sqlite", umask=umask))
    private = dict.fromkeys(["c.sqlite", "c.sqlite-shm", "c.sqlite-wal", "c.sqlite.lock"], "0o600")
    assert modes == {"too": "0o700", **private}
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


def test_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """A folder that the user made is the user's."""
    tmp_path.chmod(0o755)
    prepare_folder(tmp_path / "c.sqlite")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file where the folder should be is an error that names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/folder: the checkpoint's folder cannot be made"):
        prepare_folder(tmp_path / "file" / "folder" / "c.sqlite")


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """A folder under the checkpoint's name is an error, no traceback of SQLite."""
    with pytest.raises(CheckpointError), open_checkpoint(tmp_path):
        pass


def test_path_may_have_any_character(tmp_path: Path) -> None:
    """Characters that mean something in a URL or to SQLite are a name like any other."""
    path = tmp_path / "a?mode=ro&b#c%20d 'é'.sqlite"
    outcomes = filled(path, 1)
    assert path.exists()
    assert read_all(path, list(outcomes), is_read_only=True) == list(outcomes.values())


def test_file_of_a_killed_first_start_is_usable(tmp_path: Path) -> None:
    """A process that was killed after making the file, and before its tables, stops nobody."""
    (tmp_path / "c.sqlite").touch()
    assert list(filled(tmp_path / "c.sqlite", 1)) == [b"answer 0", b"failure 0"]


def test_set_aside_without_checkpoint_does_nothing(tmp_path: Path) -> None:
    """There is nothing to set aside before the first run."""
    assert set_aside(tmp_path / "c.sqlite") is None
    assert list(tmp_path.iterdir()) == []


def test_set_aside_keeps_the_answers_readable(tmp_path: Path) -> None:
    """The old answers stand under another name; the next run starts without any."""
    path = tmp_path / "c.sqlite"
    outcomes = filled(path, 5)
    aside = set_aside(path)
    assert aside is not None
    assert list(tmp_path.iterdir()) == [aside]
    assert read_all(aside, list(outcomes), is_read_only=True) == list(outcomes.values())
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.answer_count(), checkpoint.last_run()) == (0, None)


@pytest.mark.slow
def test_set_aside_after_a_kill_keeps_all_answers(tmp_path: Path) -> None:
    """What a killed run left in the write-ahead log goes along."""
    path = tmp_path / "c.sqlite"
    reported = killed_writer(path, 10)
    assert path.with_name("c.sqlite-wal").stat().st_size > 0
    aside = set_aside(path)
    assert aside is not None
    assert list(tmp_path.iterdir()) == [aside]
    assert kept_answers(aside) in (3 * reported, 3 * reported + 3)


@pytest.mark.slow
def test_set_aside_with_a_reader_keeps_all_answers(tmp_path: Path) -> None:
    """While another program reads the checkpoint, it is set aside whole, or left as it is."""
    path = tmp_path / "c.sqlite"
    with started(path) as checkpoint, database(path) as reader:
        checkpoint.commit([(b"a", answered())], Progress())
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM answers").fetchone()
        checkpoint.commit([(b"b", answered())], Progress())
        try:
            aside = set_aside(path) or path
        except CheckpointError:
            aside = path
    assert kept_answers(aside) == 2


def test_set_aside_twice_at_once_keeps_both(tmp_path: Path) -> None:
    """Setting aside several times within a second loses nothing."""
    kept = set()
    for number in range(8):
        with started(tmp_path / "c.sqlite") as checkpoint:
            checkpoint.commit([(str(number).encode(), answered())], Progress())
        kept.add(set_aside(tmp_path / "c.sqlite"))
    assert len(kept) == len(list(tmp_path.iterdir())) == 8


def test_set_aside_leaves_another_programs_file(tmp_path: Path) -> None:
    """Another program's SQLite file is not moved away under its feet."""
    path = tmp_path / "c.sqlite"
    with database(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    with pytest.raises(CheckpointForeignError):
        set_aside(path)
    assert path.exists()


def test_set_aside_takes_a_damaged_file_as_it_is(tmp_path: Path) -> None:
    """Who wants to start afresh need not have the old answers readable; they are kept all the same."""
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"no database" * 500)
    aside = set_aside(path)
    assert aside is not None
    assert [(one, one.read_bytes()) for one in tmp_path.iterdir()] == [(aside, b"no database" * 500)]


settled_values = st.builds(
    Settled, st.none() | st.integers(1, 4096), *[st.none() | st.floats(0, 1e12)] * (len(fields(Settled)) - 1)
)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.dictionaries(st.tuples(st.text(), st.text()), settled_values, max_size=4))
def test_settled_values_are_remembered_by_endpoint_and_model(known: dict[tuple[str, str], Settled]) -> None:
    """What a run has learned is there for the next one, each under its own name, of whatever characters."""
    known = {(endpoint + "/1", model): settled for (endpoint, model), settled in known.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.sqlite")
        with started(path) as checkpoint:
            for names, settled in known.items():
                checkpoint.remember(*names, settled)
        with open_checkpoint(path, is_read_only=True) as checkpoint:
            assert {names: checkpoint.remembered(*names) for names in known} == known
            assert checkpoint.remembered("never asked", "") is None


def test_settled_values_take_the_place_of_older_ones(tmp_path: Path) -> None:
    """The endpoint is now as it is now, and what is not known any more is not kept from before."""
    path = tmp_path / "c.sqlite"
    for settled in (Settled(64, 600.0, 2e5, 3.7, 20.0), Settled(32, bytes_per_token=4.1)):
        with started(path) as checkpoint:
            checkpoint.remember("https://one", "", settled)
            assert checkpoint.remembered("https://one", "") == settled
    with database(path) as connection:
        assert connection.execute("SELECT count(*) FROM settled").fetchone() == (1,)


@pytest.mark.parametrize(
    "change",
    ["fields = CAST(replace(fields, '64', '46') AS BLOB)", "fields = x'00'", "model = 'x'", "checksum = x'00'"],
)
def test_changed_settled_values_count_as_not_there(tmp_path: Path, change: str) -> None:
    """A run that begins with values that are not those stored would be too slow or turned away; it learns anew."""
    path = tmp_path / "c.sqlite"
    with started(path) as checkpoint:
        checkpoint.remember("https://one", "model", Settled(64))
        with database(path) as connection:
            connection.execute(f"UPDATE settled SET {change}")
        assert checkpoint.remembered("https://one", "model") is None
        assert checkpoint.remembered("https://one", "x") is None
        checkpoint.remember("https://one", "model", Settled(8))
        assert checkpoint.remembered("https://one", "model") == Settled(8)


def test_settled_values_need_a_file_that_may_be_written(tmp_path: Path) -> None:
    """They are refused as answers would be."""
    path = tmp_path / "c.sqlite"
    filled(path, 1)
    with (
        open_checkpoint(path, is_read_only=True) as checkpoint,
        pytest.raises(CheckpointError, match="readonly"),
    ):
        checkpoint.remember("https://one", "model", Settled(1))


BODIES = [b"", b"x", b'{"id": 1}' * 100, b"\0" * 1023, b"\xff" * 1024, bytes(range(256)) * 300]


@pytest.mark.parametrize("body", BODIES, ids=len)
def test_any_zlib_reads_a_stored_reply(tmp_path: Path, body: bytes) -> None:
    """Short or long, a body is a zlib stream in the file, as it was for every version before."""
    path = tmp_path / "c.sqlite"
    with started(path) as checkpoint:
        checkpoint.commit([(b"key", replace(answered(), reply=body))], Progress())
        assert checkpoint.outcomes([b"key"], with_replies=True) == [replace(answered(), reply=body)]
    with database(path) as connection:
        (stored,) = connection.execute("SELECT reply FROM answers").fetchone()
    assert zlib.decompress(stored) == body
    assert len(stored) <= max(1024, len(body) // 2) + 11


def test_failures_of_an_earlier_run_go_when_answered(tmp_path: Path) -> None:
    """Also a connection that has stored none itself takes them out."""
    path = tmp_path / "c.sqlite"
    with started(path) as checkpoint:
        checkpoint.commit([(b"key", given_up()), (b"other", given_up())], Progress())
    with started(path) as checkpoint:
        checkpoint.commit([(b"key", answered())], Progress())
    with database(path) as connection:
        assert connection.execute("SELECT key FROM failures").fetchall() == [(b"other",)]


def test_first_run_has_none_before_it(tmp_path: Path) -> None:
    """A new checkpoint has no run; the first is told that there was none before."""
    with open_checkpoint(tmp_path / "c.sqlite") as checkpoint:
        assert checkpoint.last_run() is None
        assert checkpoint.start_run(10) is None
        run = last_run_of(checkpoint)
    assert (run.run, run.pid, run.rows_total, run.progress) == (1, os.getpid(), 10, Progress())
    assert (run.ended_at, run.end_reason, run.lost_in_flight) == (None, None, 0)


def test_run_that_ended_lost_nothing(tmp_path: Path) -> None:
    """A run that said why it ended had time to let its requests end."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([], Progress(in_flight=3, in_flight_bound=16))
        assert last_run_of(checkpoint).lost_in_flight == 16
        checkpoint.end_run("stopped by SIGINT")
    with open_checkpoint(tmp_path / "c.sqlite") as checkpoint:
        before = checkpoint.start_run(20)
    assert before is not None
    assert before.ended_at is not None
    assert before.started_at <= before.updated_at <= before.ended_at
    assert (before.run, before.end_reason, before.rows_total) == (1, "stopped by SIGINT", 10)
    assert (before.lost_in_flight, before.progress) == (0, Progress(in_flight=3, in_flight_bound=16))


@pytest.mark.slow
def test_run_that_was_killed_tells_the_next(tmp_path: Path) -> None:
    """The next run learns how many requests of a killed one may have been billed without an answer."""
    killed_writer(tmp_path / "c.sqlite", 3)
    with open_checkpoint(tmp_path / "c.sqlite") as checkpoint:
        before = checkpoint.start_run(20)
        assert before is not None
        assert (before.run, before.lost_in_flight) == (1, 7)
        assert (last_run_of(checkpoint).run, last_run_of(checkpoint).lost_in_flight) == (2, 0)


def test_failures_are_grouped_most_frequent_first(tmp_path: Path) -> None:
    """What the newest run gave up is counted, by kind and message, up to the limit; not what was to be asked again."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        checkpoint.commit([(b"old", given_up("of the run before"))], Progress())
        checkpoint.end_run("finished")
    with started(tmp_path / "c.sqlite") as checkpoint:
        rows = [given_up("rare"), given_up("often"), given_up("often"), given_up("often", kind="timeout")]
        checkpoint.commit([(bytes([number]), row) for number, row in enumerate(rows)], Progress())
        groups = [
            FailureGroup("server", "often", 2),
            FailureGroup("server", "rare", 1),
            FailureGroup("timeout", "often", 1),
        ]
        assert checkpoint.failure_groups(10) == groups
        assert checkpoint.failure_groups(2) == [groups[0], groups[2]]  # one of each kind first


@pytest.mark.parametrize("values", [(b"ab", b"c", b"d"), (b"a", b"bc", b"d"), (b"a", b"b", b"cd")])
def test_checksum_tells_where_each_value_ends(values: tuple[bytes, bytes, bytes]) -> None:
    """The same bytes, divided otherwise between key, fields and reply, are another answer."""
    key, fields, reply = values
    others = [(b"abc", b"d", b""), (b"", b"abc", b"d"), (b"abcd", b"", b"")]
    mine = checksum("answers", (key, 1, 0.5, 1, fields, reply, None))
    assert mine not in [checksum("answers", (a, 1, 0.5, 1, b, c, None)) for a, b, c in others]
    failure = (key, 1, 0, None, 1, "kind", "message", None, "code", None)
    assert checksum("failures", (*failure, fields, reply)) != checksum("failures", (*failure, fields + reply, b""))


def test_damaged_failure_is_in_no_group(tmp_path: Path) -> None:
    """What status counts is what was stored."""
    path = tmp_path / "c.sqlite"
    with started(path) as checkpoint:
        checkpoint.commit([(bytes([number]), given_up("no")) for number in range(3)], Progress())
    with database(path) as connection:
        connection.execute("UPDATE failures SET kind = 'other' WHERE key = x'01'")
        connection.commit()
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        assert checkpoint.failure_groups(10) == [FailureGroup("server", "no", 2)]


def test_final_failures_of_earlier_runs_are_grouped_with_their_rows(tmp_path: Path) -> None:
    """A failure that stands is shown by every run after it, until none of the rows of a finished one has it."""
    path = tmp_path / "c.sqlite"
    named = [replace(given_up("bad", is_transient=False), row_name=f"T-{number}") for number in range(7)]
    with started(path) as checkpoint:
        checkpoint.commit([(bytes([number]), row) for number, row in enumerate(named)], Progress())
        checkpoint.end_run("finished")
    group = FailureGroup("server", "bad", 7, ("T-0", "T-1", "T-2", "T-3", "T-4"))
    with started(path) as checkpoint:
        assert checkpoint.failure_groups(10) == [group]
        checkpoint.commit([], Progress(rows_failed_before=7))
        checkpoint.end_run("finished")
        assert checkpoint.failure_groups(10) == [group]
    with started(path) as checkpoint:
        checkpoint.commit([(b"new", given_up("late"))], Progress())
        checkpoint.end_run("finished")
        assert checkpoint.failure_groups(10) == [FailureGroup("server", "late", 1)]


def test_find_retrying_kinds_drops_final_failures_of_these(tmp_path: Path) -> None:
    """A final failure of another kind stands; one that is transient is asked again anyway."""
    with started(tmp_path / "c.sqlite") as checkpoint:
        schema = given_up(kind="schema", is_transient=False)
        checkpoint.commit([*OF_EACH_KIND, (b"schema", schema)], Progress())
    with started(tmp_path / "c.sqlite") as checkpoint:
        found = checkpoint.find([*KEYS, b"schema"], retries_final=frozenset({"schema", "auth"}))
        assert found == {b"answer": True, b"transient": None, b"final": False, b"schema": None}
