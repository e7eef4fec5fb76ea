"""Memory of whole runs, small; `make torture` does the same at full size."""

from pathlib import Path

import pytest

from tests.torture import memory

pytestmark = pytest.mark.slow


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Five times as many rows of 1 KB take hardly more memory; at these sizes buffers are still filling."""
    peaks = {}
    for rows in (2_000, 10_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        peaks[rows] = memory.peak_memory_mb(folder, rows=rows, concurrency=32)
    assert peaks[10_000] <= 1.3 * peaks[2_000]


def test_memory_of_pictures_is_bounded_by_in_flight_bytes(tmp_path: Path) -> None:
    """Sixty pictures of 1 MB go through a bound of 8 MB, and take less than half of what they would at once."""
    plain = memory.peak_memory_mb(_folder(tmp_path, "plain"), rows=200, concurrency=64)
    peaks = {
        bound: memory.peak_memory_with_pictures_mb(
            _folder(tmp_path, str(bound)), rows=60, concurrency=64, in_flight_bytes=bound * 2**20
        )
        for bound in (8, 512)
    }
    assert peaks[8] - plain < 0.5 * (peaks[512] - plain)


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
