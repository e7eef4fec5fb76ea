"""Where the key comes from, whom it is sent to, and what is said when there is none; never the key itself."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchchat.errors import EndpointRefusedError, JobError
from batchchat.job.api_key import api_key, explained, key_note
from batchchat.job.file import LoadedJob, job_from_mapping
from batchchat.job.job import PRESETS, Endpoint

KEY, OTHER = "sk-canary-0123456789abcdef", "sk-other-9876543210fedcba"
OXEN = "https://hub.oxen.ai/api/ai"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the developer's own keys and files out of the tests; return the home folder that stands in."""
    for name in [name for name in os.environ if name.endswith("_API_KEY")] + ["OXEN_CONFIG_DIR"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def loaded(tmp_path: Path, **endpoint: Any) -> LoadedJob:
    """Return a job with this endpoint."""
    return job_from_mapping({"request": {"model": "m", "messages": "x"}, "endpoint": endpoint}, tmp_path)


def key_of(tmp_path: Path, **endpoint: Any) -> str | None:
    """Return the key that such a job sends."""
    return api_key(loaded(tmp_path, **endpoint))


def problem_of(tmp_path: Path, **endpoint: Any) -> str:
    """Return what is said when such a job has no key it should have; neither it nor a traceback has a key."""
    with pytest.raises(JobError) as caught:
        key_of(tmp_path, **endpoint)
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(key in shown for key in (KEY, OTHER))
    return str(caught.value)


def oxen_config(folder: Path, *hosts: tuple[str, str]) -> Path:
    """Write Oxen's config, with a token for each host; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = "".join(f'[[host_configs]]\nhost = "{host}"\nauth_token = "{token}"\n' for host, token in hosts)
    path = folder / "auth_config.toml"
    path.write_text(f'default_host = "hub.oxen.ai"\n{entries}')
    return path


# Where it comes from


def test_named_variable_comes_first(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the job names wins over what the provider and Oxen's tools have."""
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    monkeypatch.setenv("OXEN_API_KEY", OTHER)
    oxen_config(home / ".config" / "oxen", ("hub.oxen.ai", OTHER))
    assert key_of(tmp_path, provider="oxen", api_key_env="MY_KEY") == KEY
    monkeypatch.delenv("MY_KEY")
    assert problem_of(tmp_path, api_key_env="MY_KEY") == (
        "the job: endpoint.api_key_env: the environment variable MY_KEY is not set; it must hold the endpoint's API key"
    )


def test_named_file_comes_before_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file holds the key and nothing else but white space around it."""
    monkeypatch.setenv("OXEN_API_KEY", OTHER)
    (tmp_path / "key").write_text(f"\n  {KEY}\r\n\n")
    assert key_of(tmp_path, api_key_file="key") == KEY
    assert key_of(tmp_path, base_url="http://127.0.0.1:1/v1", api_key_file="key") == KEY


@pytest.mark.parametrize("provider", [name for name, preset in PRESETS.items() if preset.api_key_env])
def test_provider_has_its_variable(tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word in the job the provider's own variable is used."""
    monkeypatch.setenv(str(PRESETS[provider].api_key_env), KEY)
    assert key_of(tmp_path, provider=provider) == KEY


def test_variable_comes_before_oxens_config(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Oxen's own tools have stored is the last place."""
    oxen_config(home / ".config" / "oxen", ("hub.oxen.ai", KEY))
    assert key_of(tmp_path) == key_of(tmp_path, provider="oxen") == KEY
    monkeypatch.setenv("OXEN_API_KEY", OTHER)
    assert key_of(tmp_path) == OTHER


def test_oxens_config_may_be_elsewhere(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OXEN_CONFIG_DIR` names its folder, as for Oxen's own tools; nothing is written there."""
    oxen_config(home / ".config" / "oxen", ("hub.oxen.ai", OTHER))
    path = oxen_config(tmp_path / "elsewhere", ("localhost:3001", OTHER), ("hub.oxen.ai", KEY))
    before = path.stat().st_mtime_ns, path.read_bytes()
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert key_of(tmp_path) == KEY
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


@pytest.mark.parametrize(
    ("host", "base_url", "key"),
    [
        ("hub.oxen.ai", OXEN, KEY),
        ("hub.oxen.ai:443", OXEN, KEY),
        ("HUB.oxen.ai", OXEN, KEY),
        ("127.0.0.1:8391", "http://127.0.0.1:8391/api/ai", KEY),
        ("my.oxen.example", "https://my.oxen.example/api/ai", KEY),
        ("127.0.0.1", "http://127.0.0.1:8391/api/ai", None),
        ("hub.oxen.ai", "https://hub.oxen.ai:8443/api/ai", None),
        ("hub.oxen.ai", "https://hub.oxen.ai.evil.example/api/ai", None),
        ("oxen.ai", "https://evil.oxen.ai/api/ai", None),
        ("my.oxen.example", "http://my.oxen.example/api/ai", None),
    ],
)
def test_oxens_config_is_for_exactly_its_hosts(
    tmp_path: Path, home: Path, host: str, base_url: str, key: str | None
) -> None:
    """A token goes to the very host that it was stored for, and never over an open way."""
    oxen_config(home / ".config" / "oxen", (host, KEY))
    assert key_of(tmp_path, provider="oxen", base_url=base_url, allow_http=True) == key


def test_oxens_config_is_for_oxen_alone(tmp_path: Path, home: Path) -> None:
    """Another provider does not get what Oxen's tools have stored, whatever host it is at."""
    oxen_config(home / ".config" / "oxen", ("api.openai.com", KEY), ("127.0.0.1:1", KEY))
    assert "OPENAI_API_KEY is not set" in problem_of(tmp_path, provider="openai")
    assert key_of(tmp_path, base_url="http://127.0.0.1:1/v1") is None
    assert key_of(tmp_path, provider="vllm", base_url="http://127.0.0.1:1/v1") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is not there"),
        (f'auth_token = "{KEY}', "cannot be read: it is not TOML"),
        (f"\xff{KEY}", "cannot be read: it is not TOML"),
        ("", "has no key for hub.oxen.ai"),
        (f'host_configs = "{KEY}"', "has no key for hub.oxen.ai"),
        (f'host_configs = ["{KEY}", {{host = 5, auth_token = "{KEY}"}}]', "has no key for hub.oxen.ai"),
        ('[[host_configs]]\nhost = "hub.oxen.ai"\nauth_token = 5', "has no key for hub.oxen.ai"),
        ('[[host_configs]]\nhost = "hub.oxen.ai"', "has no key for hub.oxen.ai"),
    ],
)
def test_missing_key_says_where_it_was_looked_for(tmp_path: Path, home: Path, content: str | None, reason: str) -> None:
    """The variable and the file are named, with what is wrong with each, and what to do."""
    path = home / ".config" / "oxen" / "auth_config.toml"
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode("latin-1"))
    assert problem_of(tmp_path) == (
        "the job: endpoint.api_key_env: there is no API key: the environment variable OXEN_API_KEY is not set, and"
        f" {path} {reason}; set the variable, or name another in endpoint.api_key_env, or a file in"
        " endpoint.api_key_file"
    )


def test_config_folder_that_is_a_file_is_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd places are places without a config."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "file"))
    assert "is not there" in problem_of(tmp_path)
    (tmp_path / "auth_config.toml").mkdir()
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path))
    assert "cannot be read: Is a directory" in problem_of(tmp_path)


# What cannot be a key


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "{path} cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "{path} cannot be read: Is a directory"),
        (lambda path: path.write_text(" \n"), "the file {path} is empty; it must hold the endpoint's API key"),
        (
            lambda path: path.write_text(f"# my key\n{KEY}"),
            "the file {path} has several lines; it must hold the key and nothing else",
        ),
        (
            lambda path: path.write_text(f"OXEN_API_KEY = {KEY}"),
            "what stands in the file {path} has a space, a control or a non-ASCII character, which no API key has",
        ),
        (
            lambda path: path.write_text(f"\ufeff{KEY}é"),
            "what stands in the file {path} has a space, a control or a non-ASCII character, which no API key has",
        ),
        (
            lambda path: path.write_bytes(f"{KEY}\0\xff".encode("latin-1")),
            "what stands in the file {path} has a space, a control or a non-ASCII character, which no API key has",
        ),
    ],
)
def test_file_that_holds_no_key_is_explained(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    """What is wrong with it is said at once, without a word of what stands in it."""
    path = tmp_path / "key"
    make(path)
    assert problem_of(tmp_path, api_key_file="key") == f"the job: endpoint.api_key_file: {reason.format(path=path)}"


@pytest.mark.parametrize("value", [f"{KEY} {KEY}", f"{KEY}\nx: y", f"{KEY}é", f"a\x7f{KEY}"])
def test_variable_that_holds_no_key_is_explained(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that no header could carry is found before the first request."""
    monkeypatch.setenv("MY_KEY", value)
    assert "the value of MY_KEY has a space, a control or" in problem_of(tmp_path, api_key_env="MY_KEY")


def test_blank_variable_is_none(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as not set, and the next place is looked at."""
    monkeypatch.setenv("OXEN_API_KEY", " ")
    oxen_config(home / ".config" / "oxen", ("hub.oxen.ai", KEY))
    assert key_of(tmp_path) == KEY


def test_odd_variable_is_not_named(tmp_path: Path) -> None:
    """Short keys may look like names."""
    assert "abcDEF123" not in problem_of(tmp_path, api_key_env="abcDEF123")


# Whom it is sent to


@pytest.mark.parametrize(
    ("endpoint", "note"),
    [
        (
            {"provider": "oxen", "base_url": "http://127.0.0.1:8391/api/ai"},
            (
                "no key is sent: OXEN_API_KEY belongs to hub.oxen.ai; name it in endpoint.api_key_env to send it to"
                " 127.0.0.1:8391"
            ),
        ),
        (
            {"provider": "openai", "base_url": "http://api.openai.com/v1", "allow_http": True},
            (
                "no key is sent: OPENAI_API_KEY belongs to api.openai.com; name it in endpoint.api_key_env to send it"
                " to http://api.openai.com"
            ),
        ),
        (
            {"base_url": "https://gateway.example/v1"},
            (
                "no key is sent: the job names none; name its variable in endpoint.api_key_env to send it to"
                " gateway.example"
            ),
        ),
    ],
)
def test_key_stays_at_home(
    tmp_path: Path, endpoint: dict[str, Any], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider's key goes to its host alone, and the note says so, and how to send it all the same."""
    for name in ("OXEN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    assert key_of(tmp_path, **endpoint) is None
    assert key_note(Endpoint.model_validate(endpoint), None) == note
    name = "OPENAI_API_KEY" if endpoint.get("provider") == "openai" else "OXEN_API_KEY"
    assert key_of(tmp_path, **endpoint, api_key_env=name) == KEY
    assert key_note(Endpoint.model_validate(endpoint), KEY) is None


def test_embedded_endpoint_needs_no_note() -> None:
    """Nothing is amiss without a key where none can be asked for."""
    assert key_note(Endpoint(provider="local"), None) is None


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_without_a_key_says_why_there_is_none(status: int) -> None:
    """The endpoint's own words come first, the note behind them."""
    endpoint = Endpoint(provider="oxen", base_url="http://127.0.0.1:8391/api/ai")
    refused = f"the endpoint refuses the job ({status}): who are you?"
    with pytest.raises(EndpointRefusedError) as caught, explained(endpoint, None):
        raise EndpointRefusedError(refused)
    assert str(caught.value) == f"{refused}. Note: {key_note(endpoint, None)}"


@pytest.mark.parametrize(("status", "key"), [(402, None), (401, KEY), (404, None)])
def test_other_refusals_stay_as_they_are(status: int, key: str | None) -> None:
    """With a key, or for another reason, there is nothing to explain."""
    message = f"the endpoint refuses the job ({status}): no"
    with pytest.raises(EndpointRefusedError) as caught, explained(Endpoint(base_url="http://localhost/v1"), key):
        raise EndpointRefusedError(message)
    assert str(caught.value) == message
