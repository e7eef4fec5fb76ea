"""Memory of whole runs, small; `make torture` does the same at full size."""

from pathlib import Path

from tests import torture


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Five times as many rows of 1 KB take hardly more memory; at these sizes buffers are still filling."""
    peaks = {}
    for rows in (2_000, 10_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        peaks[rows] = torture.peak_memory_mb(folder, rows=rows, concurrency=32)
    assert peaks[10_000] <= 1.3 * peaks[2_000]
