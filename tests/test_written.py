"""An output that was written, read again: what no reader of the format can open is not taken for whole."""

from pathlib import Path

import polars as pl

from batchchat import pipeline, verifying
from batchchat.jobfile import load_job
from tests.running import batchchat, write_csv, write_job


def test_footer_that_only_one_library_can_read_is_found(tmp_path: Path) -> None:
    """Whoever opens the table next may use the other: a file that it refuses is not verified."""
    write_csv(tmp_path / "rows.csv", ["a", "b"])
    job = write_job(tmp_path)
    assert batchchat("run", job, "--quiet").code == 0
    output = tmp_path / "out.parquet"
    content = output.read_bytes()
    plan = pipeline.prepare(load_job(job), is_read_only=True)
    refused = 0
    for at in range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content), 5):
        output.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            pl.read_parquet_schema(output)
        except pl.exceptions.PolarsError:
            refused += 1
            assert verifying.verify(plan).differences[0].problem.startswith("the file cannot be read")
    assert refused > 0
