"""Compressed inputs that unfold to far more than they are: read piece by piece, or refused, in bounded memory."""

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tests.running import ROOT

pytestmark = pytest.mark.slow

MB = 2**20
UNFOLDED_MB = 1024
PROBE = """
import os, sys
from pathlib import Path
from batchchat.errors import InputError
from batchchat.read.source import open_source
def peak_kb():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak_kb()
try:
    print(open_source(Path(sys.argv[1])).total_rows, "rows")
except InputError as error:
    print(error)
print((peak_kb() - before) // 1024, flush=True)
os._exit(0)
"""


def _probe(path: Path) -> tuple[str, int]:
    """Open an input in a process of its own; return the rows or the message, and the MB that it took."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    said, took_mb = done.stdout.splitlines()
    return said.replace(str(path), path.name), int(took_mb)


def _zeros() -> bytes:
    """Return a gigabyte as a gzip file, of many times the same member: it is made quickly."""
    return gzip.compress(b"\0" * (32 * MB), 1) * (UNFOLDED_MB // 32)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zeros.csv.gz", "zeros.csv.gz: the header is longer than 4,194,304 characters; is this a CSV file?"),
        (
            "zeros.jsonl.gz",
            "zeros.jsonl.gz:1: the line is longer than 128 MB; each line must be one JSON object, and no larger",
        ),
    ],
)
def test_gigabyte_of_zeros_is_refused_in_bounded_memory(tmp_path: Path, name: str, said: str) -> None:
    """Five megabytes that unfold to a gigabyte without a line's end are no row; most of them are never unfolded."""
    path = tmp_path / name
    path.write_bytes(_zeros())
    found, took_mb = _probe(path)
    assert found == said
    assert took_mb < 400


def test_zstd_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    """Thirty kilobytes of zstd are a gigabyte as well."""
    path = tmp_path / "zeros.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        for _ in range(UNFOLDED_MB // 32):
            stream.write(b"\0" * (32 * MB))
    assert path.stat().st_size < MB
    found, took_mb = _probe(path)
    assert found.startswith("zeros.jsonl.zst:1: the line is longer than 128 MB")
    assert took_mb < 400


def test_many_rows_in_a_small_file_are_read(tmp_path: Path) -> None:
    """A table that compresses well is not refused: its rows come a block at a time."""
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"text\n", 1) + gzip.compress(b"x\n" * (4 * MB), 1) * 2)
    found, took_mb = _probe(path)
    assert found == f"{8 * MB} rows"
    assert took_mb < 200
