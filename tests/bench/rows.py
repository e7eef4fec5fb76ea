"""The table that everyone reads: rows of 1 KB, each different, the same ones every time."""

import random
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

ROW_BYTES = 1_000
_WORDS = "billing refund order delay customer twice charged please shipment address password login error page invoice"
_GROUP_ROWS = 10_000


def rows_file(folder: Path, count: int) -> Path:
    """Return the Parquet with so many rows (`id`, `text`), written unless it is there; fewer are its beginning."""
    path = folder / f"rows-{count}.parquet"
    if path.exists():
        return path
    chance = random.Random(1)
    words = " ".join(chance.choices(_WORDS.split(), k=100_000))
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, count, _GROUP_ROWS):
            ids = range(first, min(first + _GROUP_ROWS, count))
            texts = [_text(number, words, chance) for number in ids]
            writer.write_table(pa.table({"id": list(ids), "text": texts}, schema=schema))
    return path


def _text(number: int, words: str, chance: random.Random) -> str:
    start = chance.randrange(len(words) - ROW_BYTES)
    return f"#{number} {words[start : start + ROW_BYTES]}"[:ROW_BYTES]
