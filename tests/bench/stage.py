"""What every scenario is given: a folder, the cores, and how large it is to be."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from tests.bench.cores import Cores

QUICK = 1 / 20


@dataclass(frozen=True)
class Stage:
    """A folder for files of any size, the cores, and the sizes; `is_full` gives the slow contestants all rows too."""

    folder: Path
    cores: Cores
    scale: float = 1.0
    is_full: bool = False

    def sized(self, number: float, least: float = 1) -> int:
        """Return a number of rows, or of seconds, in the size of this run."""
        return int(max(number * self.scale, least))

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Lend an empty folder; what is in it is removed afterwards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(mkdtemp(prefix="run-", dir=self.folder))
        try:
            yield path
        finally:
            rmtree(path, ignore_errors=True)
