"""The endpoint's key: where it is looked for, and to whom it is sent.

It comes from the variable or the file that the job names, else from the provider's variable, and for Oxen from Oxen's
own config file; never from the job or the command line. A provider's key goes to that provider's host alone. No message
has a key in it.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batchchat.errors import EndpointRefusedError, JobError
from batchchat.job.file import LoadedJob
from batchchat.job.job import Endpoint, is_loopback
from batchchat.job.misplaced_keys import masked
from batchchat.redaction import keep_secret

OXEN_FOLDER_VARIABLE = "OXEN_CONFIG_DIR"

_ABOUT_KEY = re.compile(r"the endpoint refuses the job \((401|403)\)")
_ENV, _FILE = ("endpoint", "api_key_env"), ("endpoint", "api_key_file")


def api_key(loaded: LoadedJob) -> str | None:
    """Return the key to send, None when none is.

    Raises:
        JobError: there is none where it should be, or what is there cannot be a key. The value is never in the message.
    """
    endpoint = loaded.job.endpoint
    if endpoint.api_key_file is not None:
        return _from_file(loaded, endpoint.api_key_file)
    name = endpoint.resolved_api_key_env
    if name is not None and (value := os.environ.get(name, "").strip()):
        return _checked(loaded, value, f"the value of {_shown(name)}")
    if endpoint.api_key_env is None and endpoint.provider_or_default == "oxen":
        return _from_oxen(loaded, name)
    if name is None:
        return None
    text = f"the environment variable {_shown(name)} is not set; it must hold the endpoint's API key"
    if endpoint.api_key_env is None:
        text += ". Another variable is named by endpoint.api_key_env, a file by endpoint.api_key_file"
    raise loaded.problem(_ENV, text)


def key_if_any(loaded: LoadedJob) -> str | None:
    """Return the key, None where there is none or none that can be used: for what goes on without one."""
    try:
        return api_key(loaded)
    except JobError:
        return None


def key_note(endpoint: Endpoint, key: str | None) -> str | None:
    """Return why no key is sent to an endpoint that may want one; None when one is, or none can be."""
    if key is not None or endpoint.is_embedded:
        return None
    there, preset = _place(endpoint.resolved_base_url), endpoint.preset
    if preset is None or preset.api_key_env is None:
        return f"no key is sent: the job names none; name its variable in endpoint.api_key_env to send it to {there}"
    return (
        f"no key is sent: {preset.api_key_env} belongs to {_place(preset.base_url)}; name it in endpoint.api_key_env"
        f" to send it to {there}"
    )


@contextmanager
def explained(endpoint: Endpoint, key: str | None) -> Iterator[None]:
    """Add to a refusal for want of a key why none was sent."""
    try:
        yield
    except EndpointRefusedError as error:
        note = key_note(endpoint, key)
        if note is None or not _ABOUT_KEY.match(str(error)):
            raise
        raise EndpointRefusedError(f"{error}. Note: {note}") from error


def _from_file(loaded: LoadedJob, path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise loaded.problem(_FILE, f"{masked(str(path))} cannot be read: {error.strerror or error}") from None
    where = f"the file {masked(str(path))}"
    if not content.strip():
        raise loaded.problem(_FILE, f"{where} is empty; it must hold the endpoint's API key")
    if len(content.strip().splitlines()) > 1:
        raise loaded.problem(_FILE, f"{where} has several lines; it must hold the key and nothing else")
    return _checked(loaded, content.strip().decode("utf-8", "replace"), f"what stands in {where}", _FILE)


def _checked(loaded: LoadedJob, value: str, where: str, path: tuple[str, str] = _ENV) -> str:
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise loaded.problem(path, f"{where} has a space, a control or a non-ASCII character, which no API key has")
    keep_secret(value)
    return value


def _shown(name: str) -> str:
    """Return a variable's name as it may be printed: a key that was put in its place must not be."""
    return name if name.isupper() else "that it names"


def _from_oxen(loaded: LoadedJob, name: str | None) -> str | None:
    """Return the key for the endpoint's host that Oxen's own tools have stored; without `name`, it may be missing."""
    endpoint = loaded.job.endpoint
    path = _oxen_config()
    hosts = _hosts(endpoint)
    token, reason = _token(path, hosts) if hosts else (None, "is for https only")
    if token is not None:
        return _checked(loaded, token, f"the key of {hosts[0]} in {path}")
    if name is None:
        return None
    raise loaded.problem(
        _ENV,
        f"there is no API key: the environment variable {name} is not set, and {path or 'the config file of Oxen'}"
        f" {reason}; set the variable, or name another in endpoint.api_key_env, or a file in endpoint.api_key_file",
    )


def _oxen_config() -> Path | None:
    folder = os.environ.get(OXEN_FOLDER_VARIABLE)
    try:
        return (Path(folder) if folder else Path.home() / ".config" / "oxen") / "auth_config.toml"
    except RuntimeError:  # nobody knows where home is
        return None


def _hosts(endpoint: Endpoint) -> list[str]:
    """Return the names by which Oxen's config may know the endpoint's host; none when the way to it is open to read."""
    parts = urlsplit(endpoint.resolved_base_url)
    host = parts.hostname or ""
    if parts.scheme != "https" and not is_loopback(host):
        return []
    default = 443 if parts.scheme == "https" else 80
    port = parts.port or default
    return [f"{host}:{port}", *([host] if port == default else [])][::-1]


def _token(path: Path | None, hosts: list[str]) -> tuple[str | None, str]:
    """Return the token that the config has for a host, and else why there is none."""
    if path is None:
        return None, "cannot be found without a home folder"
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None, "is not there"
    except OSError as error:
        return None, f"cannot be read: {error.strerror or error}"
    except ValueError:  # not UTF-8, or not TOML: its own words may quote the file
        return None, "cannot be read: it is not TOML"
    entries = data.get("host_configs")
    for entry in entries if isinstance(entries, list) else []:
        token = entry.get("auth_token") if isinstance(entry, dict) else None
        if isinstance(token, str) and token.strip() and str(entry.get("host", "")).lower() in hosts:
            return token.strip(), ""
    return None, f"has no key for {hosts[0]}"


def _place(url: str) -> str:
    """Return host and port as an address bar shows them; for another way of transport, with that too."""
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "https" or is_loopback(parts.hostname or "") else f"http://{parts.netloc}"
