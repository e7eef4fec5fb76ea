"""The memory of digests: what was remembered is found by the next run, and the other connection is never in its way."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from batchchat.checkpoint.media_digests import GATHERED, open_digests
from batchchat.checkpoint.store import open_checkpoint
from batchchat.errors import CheckpointDamagedError, CheckpointError
from batchchat.prompt.media.folder import MediaFolder
from batchchat.records import Answer, Completion, Progress

DIGEST = bytes(range(20))
KNOWN = (DIGEST, "image/png")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a checkpoint that a run has made."""
    made = tmp_path / "c.sqlite"
    with open_checkpoint(made):
        pass
    return made


@contextmanager
def beside(path: Path) -> Iterator[sqlite3.Connection]:
    """Open another connection, which does not wait for locks."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        yield connection


def count(path: Path) -> int:
    """Return how many digests are written."""
    with beside(path) as connection:
        return int(connection.execute("SELECT count(*) FROM media").fetchone()[0])


def test_digest_is_found_again(path: Path) -> None:
    """What was remembered is found at once and by the next run, as long as size and time are the same."""
    with open_digests(path) as digests:
        assert digests.find("/a.png", 10, 20) is None
        digests.remember("/a.png", 10, 20, *KNOWN)
        assert digests.find("/a.png", 10, 20) == KNOWN
    with open_digests(path) as digests:
        assert digests.find("/a.png", 10, 20) == KNOWN
        assert [digests.find(*other) for other in (("/a.png", 11, 20), ("/a.png", 10, 21), ("/b", 10, 20))] == [
            None
        ] * 3


def test_changed_file_takes_the_place_of_the_old(path: Path) -> None:
    """There is one digest for each path: that of the newest content, written or not."""
    for mtime_ns in (20, 30):
        with open_digests(path) as digests:
            digests.remember("/a.png", 10, mtime_ns, *KNOWN)
            digests.remember("/a.png", 10, mtime_ns + 1, b"other", "image/gif")
            assert digests.find("/a.png", 10, mtime_ns) is None
            assert digests.find("/a.png", 10, mtime_ns + 1) == (b"other", "image/gif")
    assert count(path) == 1


def test_odd_paths_and_times_are_kept_apart(path: Path) -> None:
    """A name that is not UTF-8 is kept as its bytes; a time that SQLite has no number for is not kept."""
    odd = os.fsdecode(b"/\xff.png")
    with open_digests(path) as digests:
        digests.remember(odd, 1, -5, *KNOWN)
        digests.remember("/late", 1, 2**63, *KNOWN)
        digests.remember("/last", 1, 2**63 - 1, *KNOWN)
    with open_digests(path) as digests:
        assert digests.find(odd, 1, -5) == KNOWN
        assert digests.find("/late", 1, 2**63) is None
        assert digests.find("/last", 1, 2**63 - 1) == KNOWN


def test_digests_are_written_in_groups(path: Path) -> None:
    """Nothing is written until enough have gathered, then all of it; the rest at the end."""
    with open_digests(path) as digests:
        for number in range(GATHERED - 1):
            digests.remember(f"/{number}", 1, 1, *KNOWN)
        assert count(path) == 0
        digests.remember("/last", 1, 1, *KNOWN)
        assert count(path) == GATHERED
        digests.remember("/more", 1, 1, *KNOWN)
        assert count(path) == GATHERED
    assert count(path) == GATHERED + 1


def test_no_lock_is_held_between_calls(path: Path) -> None:
    """Another connection may write, and empty the log, at any time between two calls."""
    with open_digests(path) as digests, beside(path) as other:
        for number in range(GATHERED + 10):
            digests.remember(f"/{number}", 1, 1, *KNOWN)
            assert digests.find("/0", 1, 1) == KNOWN
        other.execute("BEGIN IMMEDIATE")
        other.execute("COMMIT")
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_answers_are_committed_meanwhile(path: Path) -> None:
    """Digests that are remembered while another thread commits answers are all there in the end, as are the answers."""
    begun = threading.Event()

    def commit() -> None:
        with open_checkpoint(path) as checkpoint:
            checkpoint.start_run(1)
            for number in range(100):
                checkpoint.commit([(b"%d" % number, Answer(Completion("x"), b"{}", 0.1, 1))], Progress())
                begun.set()

    thread = threading.Thread(target=commit)
    with open_digests(path) as digests:
        thread.start()
        assert begun.wait(300)
        for number in range(20 * GATHERED):
            digests.remember(f"/{number}", 1, 1, *KNOWN)
        thread.join()
    assert count(path) == 20 * GATHERED
    with open_checkpoint(path, is_read_only=True) as checkpoint:
        assert checkpoint.answer_count() == 100


def test_another_thread_may_use_it(path: Path) -> None:
    """The thread that reads the input is not the one that opened the memory."""
    found: list[object] = []
    with open_digests(path) as digests:
        digests.remember("/a", 1, 1, *KNOWN)
        digests.flush()
        thread = threading.Thread(target=lambda: found.append(digests.find("/a", 1, 1)))
        thread.start()
        thread.join()
    assert found == [KNOWN]


def test_read_only_memory_stays_as_it_is(path: Path) -> None:
    """An export finds what runs have read, and writes nothing."""
    with open_digests(path) as digests:
        digests.remember("/a", 1, 1, *KNOWN)
    with open_digests(path, is_read_only=True) as digests:
        for number in range(GATHERED + 1):
            digests.remember(f"/{number}", 1, 1, *KNOWN)
        assert digests.find("/a", 1, 1) == KNOWN
        assert digests.find("/0", 1, 1) is None
    assert count(path) == 1


def run(path: Path, *, is_writable: bool, ends_with: BaseException | None) -> None:
    """Remember one digest and end; not writable, the table goes away meanwhile."""
    with open_digests(path) as digests:
        digests.remember("/a", 1, 1, *KNOWN)
        if not is_writable:
            with beside(path) as other:
                other.execute("DROP TABLE media")
        if ends_with is not None:
            raise ends_with


def test_failure_to_write_ends_the_run(path: Path) -> None:
    """A checkpoint that cannot be written is told, for it could not take answers either."""
    message = re.escape(f"{path} is damaged: SQLite says: no such table: media")
    with pytest.raises(CheckpointDamagedError, match=f"^{message}$") as told:
        run(path, is_writable=False, ends_with=None)
    assert told.value.exit_code == 3


def test_flush_that_failed_may_be_repeated(path: Path) -> None:
    """A transaction that failed in the middle is undone, and the next one takes everything."""
    with open_digests(path) as digests:
        digests.remember("/a", 1, 1, *KNOWN)
        digests.remember("/b", 1, 1, *KNOWN)
        with beside(path) as other:
            refuse = (
                "CREATE TRIGGER full BEFORE INSERT ON media WHEN NEW.path = '/b' BEGIN SELECT raise(FAIL, 'full'); END"
            )
            other.execute(refuse)
            with pytest.raises(CheckpointError, match="full"):
                digests.flush()
            assert count(path) == 0
            other.execute("DROP TRIGGER full")
        digests.flush()
        assert count(path) == 2


def test_error_of_the_run_comes_first(path: Path) -> None:
    """What ended the run is told, not that digests were lost with it; those that can be written are."""
    with pytest.raises(KeyboardInterrupt):
        run(path, is_writable=True, ends_with=KeyboardInterrupt())
    assert count(path) == 1
    with pytest.raises(KeyboardInterrupt):
        run(path, is_writable=False, ends_with=KeyboardInterrupt())


def test_missing_or_damaged_file_is_told(tmp_path: Path) -> None:
    """The memory makes no checkpoint, and says of a file that is none that it is damaged."""
    with pytest.raises(CheckpointError, match="cannot be used: unable to open"), open_digests(tmp_path / "none"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(CheckpointDamagedError), open_digests(tmp_path / "text") as digests:
        digests.find("/a", 1, 1)


@pytest.mark.parametrize("change", ["digest = x'00'", "mime_type = 'image/gif'", "size_bytes = 11", "checksum = x'00'"])
def test_damaged_digest_is_unknown(path: Path, change: str) -> None:
    """A row that is not as it was written is none: the file is read again, and remembered again."""
    with open_digests(path) as digests:
        digests.remember("/a", 10, 20, *KNOWN)
    with beside(path) as other:
        other.execute(f"UPDATE media SET {change}")
    with open_digests(path) as digests:
        assert digests.recall("/a") is None
        digests.remember("/a", 10, 20, *KNOWN)
    with open_digests(path) as digests:
        assert digests.find("/a", 10, 20) == KNOWN


def test_media_are_remembered_across_runs(path: Path, tmp_path: Path) -> None:
    """A file that the run before has read is not read again: its content may be another without anybody's notice."""
    photo = tmp_path / "a.gif"
    found = []
    for content in (b"GIF89a-1", b"GIF89a-2"):
        photo.write_bytes(content)
        os.utime(photo, ns=(10**18, 10**18))
        with open_digests(path) as digests:
            media = MediaFolder(tmp_path, 1000, None, digests).place([{"content": [{"image_url": "a.gif"}]}])[1]
            found.append((media[0].digest, media[0].mime_type, media[0].name))
    assert found[0] == found[1]
    assert count(path) == 1
