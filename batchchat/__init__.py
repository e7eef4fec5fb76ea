"""batchchat: a model's answer beside every row of a table.

`batchchat.run(job)` is the whole Python interface; the command line says `batchchat run job.yaml`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, whose import would be most of what `import batchchat` costs
if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from typing import Any

    import polars as pl

    from batchchat.send.http.transport import AsyncBaseTransport

__all__ = ["__version__", "run"]

__version__ = "0.1.0"


def run(
    job: str | PathLike[str] | Mapping[str, Any],
    frame: pl.DataFrame | pl.LazyFrame | None = None,
    *,
    transport: AsyncBaseTransport | None = None,
) -> pl.DataFrame:
    """Run or resume a job, and return its table with the new columns.

    `job` is the path of a job file, or a mapping with the same keys. With `frame`, the rows come from it instead of
    from `input.path`, and nothing is written unless `output.path` is given.

    `transport` is an `httpx.AsyncBaseTransport` that
    requests go through in place of batchchat's own connections: a mock, a cache, a proxy; it is closed at the
    end. Works inside a running event loop, as in a notebook. Rows keep the input's order; a row that failed has its
    reason in `error_kind` and `error`.

    Raises:
        batchchat.errors.BatchchatError: the job cannot run, or was stopped; the checkpoint keeps what was answered.
    """
    from batchchat.commands import notebook

    return notebook.run(job, frame, transport)
