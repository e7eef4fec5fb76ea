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
    if path.name == TABLE:
        message = f"{path} is the name of the table that goes with the job; name the job otherwise, such as job.yaml"
        raise OutputError(message)
    written: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, name in ((path, "job.yaml"), (table, TABLE)):
            with target.open("xb") as file:
                written.append(target)
                file.write((files(__package__) / name).read_bytes())
    except OSError as error:
        for target in written:
            target.unlink()
        if isinstance(error, FileExistsError) and path.parent.is_dir():
            message = f"{error.filename} is there already; name another path: batchchat init other/job.yaml"
        else:
            message = f"{path}: cannot be written: {error.strerror}"
        raise OutputError(message) from error
    return written
