"""Keys that stand where they must not, in a job or on the command line -> what to say about it, without the key.

It judges by the names of fields and by what keys look like.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchchat.job.job import Endpoint, Job
from batchchat.job.yaml import KeyPath
from batchchat.redaction import KEY_LIKE, without_keys

REDACTED = "[redacted]"

_KEY_NAMES = re.compile(r"(x|oxen|openai)?(api|access|auth|bearer|secret)?(key|token|secret|password)|bearer")
_REQUEST_NAMES = re.compile(r"x?(api|access|auth|bearer|secret)(key|token)|bearer")
_HEADER_NAMES = re.compile(r"(extra|default|http|custom|request)?headers?|authorization|auth")
_RANDOM = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{24,}(?![A-Za-z0-9])")
"""A long run of letters with digits among them, as no name has that a person gave."""
_SHORTEST_PART = re.compile(r"(?=[A-Za-z]*\d)[A-Za-z0-9]{10,}")

_INSTEAD = (
    "a job never holds a key: put it into an environment variable and name that in endpoint.api_key_env, or into a file"
    " of its own and name that in endpoint.api_key_file"
)
_ON_COMMAND_LINE = (
    ". Every user of this machine could read it there, in the list of processes: have the provider replace it"
)


def masked(text: str) -> str:
    """Return text to be printed, without anything in it that looks like a key."""
    return _RANDOM.sub(REDACTED, without_keys(text))


def misplaced_keys(data: Mapping[str, Any], from_command_line: frozenset[KeyPath]) -> dict[KeyPath, str]:
    """Return what is wrong with every key that the job holds itself, by its path; the values are in no text."""
    return {path: text + _warning(path, from_command_line) for path, text in _found(data)}


def _warning(path: KeyPath, from_command_line: frozenset[KeyPath]) -> str:
    return _ON_COMMAND_LINE if any(path[: len(set_)] == set_ for set_ in from_command_line) else ""


def _found(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for name in data:
        if name not in Job.model_fields and _is(_KEY_NAMES, name):
            yield (name,), f"is no key of a job: {_INSTEAD}"
    endpoint, request = data.get("endpoint"), data.get("request")
    if isinstance(endpoint, Mapping):
        for name, value in endpoint.items():
            if text := _wrong_in_endpoint(str(name), value):
                yield ("endpoint", name), text
    if isinstance(request, Mapping):
        for name, value in request.items():
            if text := _wrong_in_request(str(name), value):
                yield ("request", name), text


def _wrong_in_endpoint(name: str, value: Any) -> str:
    if name == "api_key_env" and _is_key(value):
        return "looks like a key itself; it must be the name of the environment variable that holds the key"
    if name == "api_key_file" and _is_key(value):
        return "looks like a key itself; it must be the path of a file that holds the key"
    if name not in Endpoint.model_fields and _is(_KEY_NAMES, name):
        return f"is no key of the endpoint: {_INSTEAD}"
    if name not in Endpoint.model_fields and _is(_HEADER_NAMES, name):
        return f"cannot be set: the header `Authorization` is made of the key, and no other is sent; {_INSTEAD}"
    has_key = KEY_LIKE.search(value) if name == "base_url" and isinstance(value, str) else _is_key(value)
    return f"looks like a key itself; {_INSTEAD}" if has_key else ""


def _wrong_in_request(name: str, value: Any) -> str:
    if _is(_REQUEST_NAMES, name) or _is(_HEADER_NAMES, name):
        return f"would be sent and kept as part of each row's request, where it does not belong; {_INSTEAD}"
    if name != "messages" and isinstance(value, str) and _is_well_known_key(value):
        return f"looks like a key, and would be sent and kept as part of each row's request; {_INSTEAD}"
    return ""


def _is(names: re.Pattern[str], name: Any) -> bool:
    return names.fullmatch(re.sub("[^a-z]", "", str(name).lower())) is not None


def _is_key(value: Any) -> bool:
    """Whether a value of the endpoint, which has short names only, looks like a key."""
    if not isinstance(value, str) or "/" in value:
        return False
    text = value.strip()
    return bool(re.match(r"(?i)bearer\s", text) or KEY_LIKE.match(text) or _RANDOM.search(text))


def _is_well_known_key(value: str) -> bool:
    """Whether the whole text is a key of a known kind, and not only a name that begins like one."""
    text = re.sub(r"(?i)^bearer\s+", "", value.strip())
    match = KEY_LIKE.fullmatch(text)
    return match is not None and _SHORTEST_PART.search(text) is not None
