"""The starter job that `batchchat init` writes: `job.yaml` and its table, as they stand in this folder."""

from importlib.resources import files
from pathlib import Path

from batchchat.errors import OutputError

TABLE = "tickets.csv"


def write_starter(path: Path) -> list[Path]:
    """Write the starter job to `path` and its table beside it; return what was written.

    Raises:
        OutputError: one of the files is there already, or cannot be written; then neither is.
    """
    table = path.parent / TABLE
    for target in (path, table):
        if target.exists():
            message = f"{target} is there already; name another path: batchchat init other/job.yaml"
            raise OutputError(message)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, name in ((path, "job.yaml"), (table, TABLE)):
            target.write_bytes((files(__package__) / name).read_bytes())
    except OSError as error:
        message = f"{path}: cannot be written: {error.strerror}"
        raise OutputError(message) from error
    return [path, table]
