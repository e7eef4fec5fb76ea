"""YAML -> Job: environment substitution, relative paths, and errors that name file, line and field.

It reads YAML 1.2's core types (so `no` and `02:00` stay text), and knows nothing of rows or endpoints.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchchat.errors import JobError, Problem, TemplateError
from batchchat.job.job import PRESETS, Endpoint, Job
from batchchat.job.misplaced_keys import masked, misplaced_keys
from batchchat.job.problems import describe, located, shown
from batchchat.job.response_schema import resolved
from batchchat.job.yaml import KeyPath, Position, dotted, parse_value, parse_yaml, position_of
from batchchat.redaction import without_keys

PATH_FIELDS = (
    ("input", "path"),
    ("input", "media_root"),
    ("output", "path"),
    ("checkpoint", "path"),
    ("endpoint", "api_key_file"),
)
_SCHEMA: KeyPath = ("request", "response_schema")


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job and where its values stand, so that later errors can name the line.

    `is_output_folder` says that `output.path` ends with a slash, which a path itself does not keep.
    """

    job: Job
    label: str = "the job"
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    is_output_folder: bool = False

    def problem(self, path: KeyPath, text: str) -> JobError:
        """Return the error of a value of the job that only shows when it is used."""
        return JobError([_problem_at(path, text, self.positions, self.label)])

    def locate(self, error: TemplateError) -> JobError:
        """Turn a template's error into one that names the line of the job file."""
        path: KeyPath = ("request", *error.path)
        where = self.label
        if (position := position_of(path, self.positions)) is not None:
            where = position.label or f"{self.label}:{position.line_of(error.line)}"
        return JobError([Problem(where, dotted(path), error.text)])


def load_job(
    path: Path,
    *,
    settings: Sequence[str] = (),
    endpoint: str | None = None,
    overrides: Mapping[KeyPath, Any] | None = None,
) -> LoadedJob:
    """Read a job file.

    `settings` are the `key=value` texts of `--set`, `endpoint` a provider's name or a base URL that replaces the file's
    whole `endpoint`, `overrides` values by path; the later win. Relative paths count from the job file's folder.

    Raises:
        JobError: the file cannot be read, is not YAML, or does not describe a job; all problems at once.
    """
    given = _Overrides(settings, endpoint, overrides or {})
    with _without_keys():
        data, positions = parse_yaml(_text_of(path), str(path))
        return _checked(data, positions, str(path), given, path.absolute().parent, path.stem)


def job_from_mapping(data: Mapping[str, Any], base: Path) -> LoadedJob:
    """Make a job from a mapping with the keys of a job file; relative paths count from `base`.

    Raises:
        JobError: the mapping does not describe a job; all problems at once.
    """
    if not isinstance(data, Mapping):
        raise _single("the job", f"must be a mapping with the keys of a job file; found a {type(data).__name__}")
    copied = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    with _without_keys():
        return _checked(copied, {}, "the job", _Overrides(), base, "job")


@dataclass(frozen=True, slots=True)
class _Overrides:
    settings: Sequence[str] = ()
    endpoint: str | None = None
    values: Mapping[KeyPath, Any] = field(default_factory=dict)


@contextmanager
def _without_keys() -> Iterator[None]:
    """Let no error of a job file show what looks like a key, in its words or in those of the error that caused it."""
    try:
        yield
    except JobError as error:
        raise JobError(
            [
                Problem(*(without_keys(part) for part in (problem.where, problem.field, problem.text)))
                for problem in error.problems
            ]
        ) from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _single(str(path), f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except FileNotFoundError as error:
        raise _single(str(path), "there is no such file; `batchchat init` writes a starter job") from error
    except (OSError, ValueError) as error:
        raise _single(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _single(where: str, text: str, name: str = "") -> JobError:
    return JobError([Problem(where, name, text)])


def _checked(
    data: Any, positions: dict[KeyPath, Position], label: str, overrides: _Overrides, base: Path, stem: str
) -> LoadedJob:
    if not isinstance(data, dict):
        raise _single(label, "is not a job: a job file is a mapping with the keys input, output and request")
    data.setdefault("name", stem)
    for section in ("input", "output", "checkpoint", "endpoint", "limits"):
        if section in data and data[section] is None:
            del data[section]  # all of its keys are commented out
    _override(data, positions, overrides)
    keys = misplaced_keys(data, frozenset(path for path, position in positions.items() if position.label))
    is_output_folder = _ends_with_slash(data.get("output"))
    _resolve_paths(data, base)
    wrong = _resolve_schema(data, base)
    job = _validated(data, positions, label, keys, wrong)
    unfit = {("request", *path): text for path, text in _unsendable(data["request"])}
    if unfit := {**_unfit_endpoint(job.endpoint), **unfit}:
        raise JobError(located(unfit, positions, label))
    if job.checkpoint.path is None:
        kept = job.checkpoint.model_copy(update={"path": base / ".batchchat" / f"{job.name}.sqlite"})
        job = job.model_copy(update={"checkpoint": kept})
    return LoadedJob(job, label, positions, is_output_folder)


def _validated(
    data: dict[str, Any],
    positions: Mapping[KeyPath, Position],
    label: str,
    misplaced: Mapping[KeyPath, str],
    wrong_schema: str | None,
) -> Job:
    problems = [] if wrong_schema is None else [_problem_at(_SCHEMA, wrong_schema, positions, label)]
    try:
        job = Job.model_validate(data)
    except ValidationError as error:
        raise JobError([*located({**describe(error, data), **misplaced}, positions, label), *problems]) from error
    problems = [*located(misplaced, positions, label), *problems]
    if problems:
        raise JobError(problems)
    return job


def _unfit_endpoint(endpoint: Endpoint) -> dict[KeyPath, str]:
    """Return what is wrong with values of the endpoint that only do not go together."""
    texts: dict[KeyPath, str] = {}
    if endpoint.api_key_env is not None and endpoint.api_key_file is not None:
        texts["endpoint", "api_key_file"] = "stands beside api_key_env, and both say where the key is; remove one"
    if endpoint.is_open_to_read and not endpoint.allow_http:
        texts["endpoint", "base_url"] = (
            "leads to another machine without encryption, so that everybody on the way could read the rows and the key;"
            f" write https://, or allow it by endpoint.allow_http: true; found {shown(endpoint.base_url)}"
        )
    return texts


def _unsendable(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the place of every number that JSON, or the endpoint's reader of it, has not, and what is wrong."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, f"is {value}, which JSON has no number for; write a finite number or remove it"
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        yield path, f"is {value}, beyond the 64 bits of an integer; write a smaller one, or text in quotes"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unsendable(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unsendable(item, (*path, number))


def _problem_at(path: KeyPath, text: str, positions: Mapping[KeyPath, Position], label: str) -> Problem:
    """Return a problem of a value of the job, with the line at which it stands."""
    position = position_of(path, positions)
    where = label if position is None else position.label or f"{label}:{position.line_of(1)}"
    return Problem(where, dotted(path), text)


def _resolve_schema(data: dict[str, Any], base: Path) -> str | None:
    """Put the JSON Schema in the place of `request.response_schema`, and the format that asks for it beside it.

    Return what is wrong with it, or None.
    """
    request = data.get("request")
    if not isinstance(request, dict) or request.get("response_schema") is None:
        return None
    if request.get("response_format") is not None:
        return "stands beside response_format, and both say what an answer must be; remove one of them"
    try:
        response_format, schema = resolved(request["response_schema"], base)
    except ValueError as error:
        return str(error)
    data["request"] = {**request, "response_format": response_format, "response_schema": schema}
    return None


def _absolute(path: str | os.PathLike[str], base: Path) -> str | Path:
    if not str(path):
        return ""
    try:
        if b"\0" in os.fsencode(path):
            raise _single(repr(path), "has a NUL character in it, which no file name has")
    except UnicodeEncodeError as error:
        coding = sys.getfilesystemencoding()
        raise _single(
            repr(path), f"cannot be a file name in {coding}, the locale's encoding; set LANG=C.UTF-8"
        ) from error
    try:
        return Path(os.path.normpath(base / Path(path).expanduser()))
    except RuntimeError as error:
        raise _single(str(path), "the home folder that `~` stands for is not known; write the path out") from error


def _override(data: dict[str, Any], positions: dict[KeyPath, Position], overrides: _Overrides) -> None:
    if overrides.endpoint is not None:
        _replace(data, positions, ("endpoint",), _endpoint_section(overrides.endpoint), "--endpoint")
    for setting in overrides.settings:
        path, value = _parse_setting(setting)
        _replace(data, positions, path, value, f"--set {dotted(path)}")
    for path, value in overrides.values.items():
        _replace(data, positions, path, value, "the command line")


def _replace(data: Any, positions: dict[KeyPath, Position], path: KeyPath, value: Any, label: str) -> None:
    """Put a value into the job, and blame the option for it and all below it."""
    for part, following in pairwise(path):
        if isinstance(data, dict) and data.get(part) is None and isinstance(following, str):
            data[part] = {}
        data = _step(data, part, label)
    if not isinstance(data, dict):
        _step(data, path[-1], label)  # in a list, only what is there can be replaced
    data[path[-1]] = value
    for inner in [known for known in positions if known[: len(path)] == path]:
        del positions[inner]
    positions[path] = Position(0, 0, label)


def _endpoint_section(text: str) -> dict[str, Any]:
    if "://" in text:
        return {"base_url": text}
    if text not in PRESETS:
        raise _single("--endpoint", f"{shown(text)} is neither a provider nor a URL; providers: {', '.join(PRESETS)}")
    return {"provider": text}


def _parse_setting(setting: str) -> tuple[KeyPath, Any]:
    name, separator, text = setting.partition("=")
    if not separator or not name.strip():
        raise _single(f"--set {masked(setting)}", "must be written key=value, such as limits.concurrency=8")
    path = tuple(
        int(part) if part.isascii() and part.isdecimal() and len(part) < 10 else part
        for part in name.strip().split(".")
    )
    return path, parse_value(text, f"--set {name.strip()}")


def _step(data: Any, part: str | int, where: str) -> Any:
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    if isinstance(data, dict) and part in data:
        return data[part]
    if isinstance(data, list):
        what = f"the value is a list of {len(data)}, counted from 0"
    else:
        what = "the value is a mapping" if isinstance(data, dict) else f"the value is {shown(str(data)[:80])}"
    raise _single(where, f"there is no {part!r} here: {what}")


def _ends_with_slash(output: Any) -> bool:
    path = output.get("path") if isinstance(output, dict) else None
    return isinstance(path, str) and path.endswith("/")


def _resolve_paths(data: dict[str, Any], base: Path) -> None:
    for section, key in PATH_FIELDS:
        values = data.get(section)
        if (
            isinstance(values, dict)
            and isinstance(values.get(key), (str, os.PathLike))
            and "://" not in str(values[key])
        ):
            values[key] = _absolute(values[key], base)
