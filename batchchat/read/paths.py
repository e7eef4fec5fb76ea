"""A path as the user wrote it -> the files to read, in reading order, and their one format.

Files are told apart by their names alone.
"""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from batchchat.errors import InputError

SUFFIX_FORMATS = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
FORMATS = tuple(dict.fromkeys(SUFFIX_FORMATS.values()))
COMPRESSION_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
TEXT_FORMATS = ("csv", "jsonl")
_ALLOWED = f"allowed are {', '.join(SUFFIX_FORMATS)} (.csv, .jsonl and .ndjson also with .gz or .zst)"
# A path loses one of the two slashes of a URL, and may have been made absolute before it comes here.
_URL = re.compile(r"(?:^|/)([a-z][a-z0-9+.-]+):/", re.IGNORECASE)


def input_files(path: Path, format: str | None) -> tuple[tuple[Path, ...], str]:  # noqa: A002 - named as in the job file
    """Return the files that `path` means, sorted by path, and their format.

    A folder is read with its subfolders, without names that start with `.` or `_` and without files of other kinds.
    Raises InputError when there is nothing to read, or when the files are not of one known format.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f'input.format is "{format}"; allowed are {", ".join(FORMATS)}')
    files = _files(path, format)
    if format is not None:
        return files, format
    return files, _common_format(path, files)


def would_read(path: Path, other: Path) -> bool:
    """Whether `path`, a folder or a glob, names the file `other` too, be it there or not."""
    if path.is_dir():
        inside = Path(os.path.realpath(other)).is_relative_to(os.path.realpath(path))
        return inside and suffix_format(other) is not None
    if path.exists():
        return False
    has_as_many_parts = len(path.parts) == len(other.parts) or "**" in path.parts
    return has_as_many_parts and fnmatch.fnmatch(str(other), str(path))


def folder_of(path: Path) -> Path:
    """Return the folder that an input is in: of a glob, the one above its first wildcard."""
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    wild = (number for number, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[: next(wild, -1)])


def suffix_format(path: Path) -> str | None:
    """Return the format that the name's suffix says, with `.gz` and `.zst` only after the text formats; else None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSION_SUFFIXES:
        found = SUFFIX_FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return found if found in TEXT_FORMATS else None
    return SUFFIX_FORMATS.get(suffixes[-1]) if suffixes else None


def _files(path: Path, format: str | None) -> tuple[Path, ...]:  # noqa: A002
    try:
        if path.is_dir():
            return _folder_files(path, format)
        if path.exists():
            return (_regular_file(path),)
        if any(character in str(path) for character in "*?["):
            return _glob_files(path, format)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error
    raise _missing(path)


def _regular_file(path: Path) -> Path:
    if path.is_file():
        return path
    # A pipe gives its bytes once, and the input is read more than once.
    raise InputError(f"{path} is not a regular file; save the data as a file and name that")


def _folder_files(folder: Path, format: str | None) -> tuple[Path, ...]:  # noqa: A002
    visible = sorted(_visible_files(folder))
    known = [file for file in visible if suffix_format(file) is not None]
    if format is not None:
        known = [file for file in known if suffix_format(file) == format] or visible
    if not known:
        found = f"found {_listed([file.name for file in visible])}" if visible else "it is empty"
        raise InputError(f"the folder {folder} has no file to read: {found}; {_ALLOWED}")
    return tuple(known)


def _visible_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            file = Path(parent, name)
            if not name.startswith((".", "_")) and file.is_file():
                yield file


def _glob_files(pattern: Path, format: str | None) -> tuple[Path, ...]:  # noqa: A002
    matches = (Path(match) for match in glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - the pattern may be absolute
    files = sorted(match for match in matches if match.is_file())
    if format is not None:
        files = [file for file in files if suffix_format(file) in (format, None)]
    if not files:
        raise InputError(f"no file matches {pattern}; check the pattern, or name one file or a folder")
    return tuple(files)


def _common_format(path: Path, files: Sequence[Path]) -> str:
    formats: dict[str, list[str]] = {}
    for file in files:
        found = suffix_format(file)
        if found is None:
            suffix = "".join(file.suffixes[-2:]) or "none"
            message = (
                f"the suffix of {file} ({suffix}) names no known format; {_ALLOWED}. Rename it, or set input.format"
            )
            raise InputError(message)
        formats.setdefault(found, []).append(file.name)
    if len(formats) > 1:
        found = "; ".join(f"{name}: {_listed(names)}" for name, names in sorted(formats.items()))
        message = f"{path} holds several formats ({found}); choose one with a glob such as *.csv, or with input.format"
        raise InputError(message)
    return next(iter(formats))


def _missing(path: Path) -> InputError:
    url = _URL.search(str(path))
    if url is not None:
        return InputError(f"{path} is a URL ({url[1]}); only files are read. Download it first, and name the file")
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return InputError(f"{path} does not exist, nor does its folder {path.parent}; check the path")
    nearest = get_close_matches(path.name, names, n=1)
    hint = f'did you mean "{nearest[0]}"?' if nearest else "check the path"
    return InputError(f"{path} does not exist; {hint}")


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
