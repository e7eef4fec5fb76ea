"""A job file on disk -> LoadedJob: messages, paths, overrides, and the line of a template's error."""

import math
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from batchchat.errors import JobError, TemplateError
from batchchat.job.file import LoadedJob, job_from_mapping, load_job
from batchchat.job.job import PRESETS, Checkpoint, Endpoint, Input, Job, Limits, Output, Request
from batchchat.job.yaml import dotted
from batchchat.prompt.template import compile_request
from tests.running import ROOT

REQUEST = "request:\n  model: m\n  messages:\n    - role: user\n      content: hi\n"
TOP = "checkpoint, endpoint, input, limits, name, notify, output, price, request"
ENDPOINT = "allow_http, api_key_env, api_key_file, base_url, name, provider"
LIMITS = ", ".join(sorted(Limits.model_fields))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the job file of a test stands."""
    return tmp_path / "triage.yaml"


def _load(path: Path, text: str | bytes, **options: Any) -> Job:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_job(path, **options).job


def _problems(path: Path, text: str | bytes, **options: Any) -> list[str]:
    """Return the messages, with `FILE` for the job file's path."""
    with pytest.raises(JobError) as caught:
        _load(path, text, **options)
    return str(caught.value).replace(str(path), "FILE").splitlines()


# the file itself


def test_small_job_is_loaded(path: Path) -> None:
    """The stem names the job, and with it the checkpoint beside the file."""
    job = _load(path, REQUEST)
    assert job.name == "triage"
    assert job.checkpoint.path == path.parent / ".batchchat" / "triage.sqlite"
    assert job.request.as_body() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_own_name_names_the_checkpoint(path: Path) -> None:
    """`name` wins over the stem, `checkpoint.path` over both."""
    assert _load(path, REQUEST + "name: n x\n").checkpoint.path == path.parent / ".batchchat" / "n x.sqlite"
    assert _load(path, REQUEST + "checkpoint: {path: c.db}\n").checkpoint.path == path.parent / "c.db"


def test_missing_file_says_what_to_do(path: Path) -> None:
    """There is a command that writes a job."""
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(caught.value) == f"{path}: there is no such file; `batchchat init` writes a starter job"


def test_folder_is_no_job(tmp_path: Path) -> None:
    """The system's own reason stands in the message."""
    with pytest.raises(JobError) as caught:
        load_job(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_other_encoding_is_named(path: Path) -> None:
    """A file in Latin-1 or UTF-16 is said to be no UTF-8, with the byte."""
    assert _problems(path, "name: é\n".encode("latin-1")) == ["FILE: is not UTF-8 text (byte 6); save it as UTF-8"]
    assert _problems(path, REQUEST.encode("utf-16")) == ["FILE: is not UTF-8 text (byte 0); save it as UTF-8"]


def test_bom_and_crlf_change_nothing(path: Path) -> None:
    """A file saved on Windows is the same job, with the same lines in its messages."""
    assert _load(path, b"\xef\xbb\xbf" + REQUEST.replace("\n", "\r\n").encode()) == _load(path, REQUEST)
    text = (REQUEST + "nmae: x\n").replace("\n", "\r\n").encode()
    assert _problems(path, b"\xef\xbb\xbf" + text) == [
        f"FILE:6: nmae: unknown key; did you mean `name`? Allowed here: {TOP}"
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "just text", "- a\n", "[]", "5"])
def test_other_document_is_no_job(path: Path, text: str) -> None:
    """A file that holds no mapping is told what a job is."""
    message = "FILE: is not a job: a job file is a mapping with the keys input, output and request"
    assert _problems(path, text) == [message]


# what is wrong, where, and what to write instead


def test_all_problems_come_at_once_in_file_order(path: Path) -> None:
    """File, line, field, what is allowed, what was found, and the nearest key, for everything that is wrong."""
    text = (
        "inptu: {path: x}\n"
        "output:\n"
        "  path: o.csv\n"
        "  columns: {completion: ''}\n"
        "  keep: [a, 1]\n"
        "checkpoint: {dedupe: maybe}\n"
        "limits:\n"
        "  concurency: 3\n"
        "  max_attempts: 0\n"
        "  timeout_s: soon\n"
        "  concurrency: 0\n"
        "  budget_eur: 5\n"
        "endpoint:\n"
        "  provider: oxn\n"
        "  baseurl: https://h\n"
        "request:\n"
        "  messages: []\n"
        "limit: 3\n"
        "input: {limit: 0, format: tsv, model: m, zzz: 1}\n"
    )
    providers = "'oxen', 'openai', 'openrouter', 'together', 'groq', 'mistral', 'ollama', 'vllm', 'llamacpp' or 'local'"
    rows = "format, id, limit, max_image_side, max_media_bytes, media_root, path, where"
    assert _problems(path, text) == [
        f"FILE:1: inptu: unknown key; did you mean `input`? Allowed here: {TOP}",
        "FILE:4: output.columns.completion: must not be empty; found ''",
        "FILE:5: output.keep[1]: must be text (put it in quotes); found 1",
        "FILE:6: checkpoint.dedupe: must be true or false; found 'maybe'",
        f"FILE:8: limits.concurency: unknown key; did you mean `concurrency`? Allowed here: {LIMITS}",
        "FILE:9: limits.max_attempts: must be at least 1; found 0",
        "FILE:10: limits.timeout_s: must be a number; found 'soon'",
        "FILE:11: limits.concurrency: must be 'auto', or must be at least 1; found 0",
        f"FILE:12: limits.budget_eur: unknown key; did you mean `budget_usd`? Allowed here: {LIMITS}",
        f"FILE:14: endpoint.provider: must be {providers}; found 'oxn'",
        f"FILE:15: endpoint.baseurl: unknown key; did you mean `base_url`? Allowed here: {ENDPOINT}",
        "FILE:16: request.model: is required",
        "FILE:17: request.messages: must hold at least one message; found []",
        f"FILE:18: limit: unknown key; did you mean `limits`? Allowed here: {TOP}",
        "FILE:19: input.format: must be 'parquet', 'csv', 'jsonl' or 'arrow'; found 'tsv'",
        "FILE:19: input.limit: must be at least 1; found 0",
        f"FILE:19: input.model: unknown key; it belongs under `request`; allowed here: {rows}",
        f"FILE:19: input.zzz: unknown key; allowed here: {rows}",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: 5\n", "limits: must be a mapping (key: value); found 5"),
        ("input: [a]\n", "input: must be a mapping (key: value); found ['a']"),
        ("input: {path: 5}\n", "input.path: must be a path; found 5"),
        ("input: {path: ''}\n", "input.path: must not be empty; found ''"),
        (
            "input: {path: 'https://h/t.csv'}\n",
            (
                "input.path: is a URL, and batchchat reads and writes files; download or upload them with another tool;"
                " found 'https://h/t.csv'"
            ),
        ),
        ("output: {keep: a}\n", "output.keep: must be a list; found 'a'"),
        ("output: {columns: [a]}\n", "output.columns: must be a mapping (key: value); found ['a']"),
        ("limits: {max_attempts: 1.5}\n", "limits.max_attempts: must be a whole number; found 1.5"),
        ("limits: {max_attempts: 1000}\n", "limits.max_attempts: must be at most 100; found 1000"),
        ("limits: {requests_per_minute: 0}\n", "limits.requests_per_minute: must be more than 0; found 0"),
        ("name: 5\n", "name: must be text (put it in quotes); found 5"),
        ("name: a/b\n", r"name: must match ^[^/\\\x00-\x1f]+$; found 'a/b'"),
        (f"name: {'x' * 201}\n", f"name: must have at most 200 characters; found '{'x' * 76}..."),
    ],
)
def test_wrong_value_says_what_is_allowed(path: Path, text: str, message: str) -> None:
    """Field, rule and value found; a long value is cut."""
    assert _problems(path, REQUEST + text) == [f"FILE:6: {message}"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("{}", ["FILE:1: request: is required"]),
        ("request:\n", ["FILE:1: request: must be a mapping (key: value); found None"]),
        ("request: {}", ["FILE:1: request.model: is required", "FILE:1: request.messages: is required"]),
        (
            "request: {model: 5, messages: 5}",
            [
                "FILE:1: request.model: must be text (put it in quotes); found 5",
                "FILE:1: request.messages: must be a list, or must be text (put it in quotes); found 5",
            ],
        ),
    ],
)
def test_incomplete_request_is_refused(path: Path, text: str, messages: list[str]) -> None:
    """What a request must have is named, one problem for each key."""
    assert _problems(path, text) == messages


def test_wrong_message_is_one_problem(path: Path) -> None:
    """A list is a list: only the item that is wrong is reported."""
    assert _problems(path, "request: {model: m, messages: [a]}") == [
        "FILE:1: request.messages[0]: must be a mapping (key: value); found 'a'"
    ]


def test_response_schema_is_one_problem_of_several(path: Path) -> None:
    """The line is that of `response_schema`, and what else is wrong with the request is reported too."""
    text = "request:\n  messages: 5\n  model: m\n  response_schema: nowhere.json\n"
    first, second = _problems(path, text)
    assert first == "FILE:2: request.messages: must be a list, or must be text (put it in quotes); found 5"
    assert second.startswith("FILE:4: request.response_schema: ")
    assert "nowhere.json" in second


def test_response_schema_becomes_the_response_format(path: Path) -> None:
    """The short form is sent as the strict format that endpoints take; the words of the job file are not sent."""
    path.write_text("request: {model: m, messages: x, response_schema: {label: [a, b]}}")
    body = load_job(path).job.request.as_body()
    assert body["response_format"]["json_schema"]["schema"]["properties"] == {
        "label": {"type": "string", "enum": ["a", "b"]}
    }
    assert "response_schema" not in body


def test_answers_are_judged_by_the_schema_as_the_job_gives_it(path: Path) -> None:
    """What is sent requires every property, as strict endpoints want it; an answer may leave the optional ones out."""
    schema = "{type: object, properties: {a: {type: string}, b: {type: string}}, required: [a]}"
    path.write_text(f"request: {{model: m, messages: x, response_schema: {schema}}}")
    request = load_job(path).job.request
    assert request.as_body()["response_format"]["json_schema"]["schema"]["required"] == ["a", "b"]
    assert request.schema_of_answers["required"] == ["a"]


def test_response_schema_beside_a_response_format_is_refused(path: Path) -> None:
    """Two wishes for the same thing are a mistake."""
    text = "request: {model: m, messages: x, response_schema: {a: string}, response_format: {type: json_object}}"
    assert _problems(path, text) == [
        (
            "FILE:1: request.response_schema: stands beside response_format, and both say what an answer must be;"
            " remove one of them"
        )
    ]


@pytest.mark.parametrize(
    "text",
    [
        "base_url: https://sk-secret@h/v1",
        "base_url: https://h/v1?api_key=sk-secret",
        "api_key_env: sk-secret",
    ],
)
def test_misplaced_key_is_not_printed(path: Path, text: str) -> None:
    """A key in the wrong place is refused without repeating it: the message ends up in a log."""
    assert "sk-secret" not in "".join(_problems(path, f"{REQUEST}endpoint: {{{text}}}\n"))


CANARY = "sk-proj-7Hq2VbN9xLr4TzK8mWc5"
INSTEAD = "a job never holds a key: put it into an environment variable and name that in endpoint.api_key_env"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (f"endpoint: {{api_key: {CANARY}}}", f"endpoint.api_key: is no key of the endpoint: {INSTEAD}"),
        ("endpoint: {apiKey: '${SHORT}'}", f"endpoint.apiKey: is no key of the endpoint: {INSTEAD}"),
        (f"endpoint: {{token: {CANARY}}}", f"endpoint.token: is no key of the endpoint: {INSTEAD}"),
        ("endpoint: {key: x}", f"endpoint.key: is no key of the endpoint: {INSTEAD}"),
        (f"endpoint: {{headers: {{Authorization: {CANARY}}}}}", "endpoint.headers: cannot be set: the header"),
        (f"endpoint: {{authorization: Bearer {CANARY}}}", "endpoint.authorization: cannot be set: the header"),
        (
            f"endpoint: {{api_key_env: {CANARY}}}",
            "endpoint.api_key_env: looks like a key itself; it must be the name of",
        ),
        ("endpoint: {api_key_env: gsk_a1B2c3D4e5F6g7H8i9J0}", "endpoint.api_key_env: looks like a key itself"),
        ("endpoint: {api_key_env: d3adb33fd3adb33fd3adb33fd3adb33f}", "endpoint.api_key_env: looks like a key itself"),
        (
            f"endpoint: {{api_key_file: {CANARY}}}",
            "endpoint.api_key_file: looks like a key itself; it must be the path",
        ),
        (f"endpoint: {{name: {CANARY}}}", f"endpoint.name: looks like a key itself; {INSTEAD}"),
        ("endpoint: {name: d3adb33fd3adb33fd3adb33fd3adb33f}", f"endpoint.name: looks like a key itself; {INSTEAD}"),
        (f"endpoint: {{base_url: 'https://h/{CANARY}/v1'}}", f"endpoint.base_url: looks like a key itself; {INSTEAD}"),
        (f"endpoint: {{provider: {CANARY}}}", f"endpoint.provider: looks like a key itself; {INSTEAD}"),
        (f"api_key: {CANARY}", f"api_key: is no key of a job: {INSTEAD}"),
    ],
)
def test_key_in_the_file_is_explained_and_not_printed(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str, start: str
) -> None:
    """Whatever it is called, a key that stands in the job is refused with what to do instead; its value is not said."""
    monkeypatch.setenv("SHORT", "abc")
    (problem,) = _problems(path, f"{REQUEST}{text}\n")
    assert problem.startswith(f"FILE:6: {start}")
    assert not any(key in problem for key in (CANARY, "gsk_a1", "d3adb33f", "abc"))


@pytest.mark.parametrize(
    "line",
    [
        f"api_key: {CANARY}",
        "headers: {X-Team: a}",
        "extra_headers: {a: b}",
        f"Authorization: Bearer {CANARY}",
        f"user: {CANARY}",
        f"user: Bearer {CANARY}",
        "user: AIzaSyA1B2c3D4e5F6g7H8i9J0kLmNoPqRsTuVw",
        f"model: {CANARY}",
    ],
)
def test_key_in_the_request_is_refused(path: Path, line: str) -> None:
    """It would be sent in every body, and kept in the checkpoint."""
    text = REQUEST.replace("  model: m\n", "") if line.startswith("model") else REQUEST
    problems = _problems(path, f"{text}  {line}\n")
    assert len(problems) == 1
    assert "would be sent and kept as part of each row's request" in problems[0]
    assert CANARY not in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "request: {model: sk-telecom-7b-v2, messages: 'Is sk-proj-7Hq2VbN9xLr4TzK8mWc5 a key? Bearer tokens too'}",
        "request: {model: hf_llama-3, messages: x, user: d3adb33fd3adb33fd3adb33fd3adb33f, token_limit: 5, keys: [a]}",
        "request: {model: 'ft:gpt-4o-mini-2024-07-18:acme::9xQ2VbN7', messages: x, stop: Bearer, tools: [{key: sk-x}]}",
        "request: {model: m, messages: x}\nendpoint: {name: vllm-2024-llama3-70b-instruct-gptq-int4-frankfurt}",
        "request: {model: m, messages: x}\nendpoint: {base_url: 'https://h/v1/d3adb33fd3adb33fd3adb33fd3adb33f/gw'}",
        "request: {model: m, messages: x}\nendpoint: {api_key_env: MY_TEAMS_KEY_FOR_THE_2ND_GATEWAY_IN_FRANKFURT}",
        "request: {model: m, messages: x}\nendpoint: {api_key_file: /run/secrets/d3adb33fd3adb33fd3adb33fd3adb33f}",
        "request: {model: m, messages: x}\nendpoint: {api_key_file: ~/.keys/oxen}",
    ],
)
def test_prompts_models_and_names_raise_no_alarm(path: Path, text: str) -> None:
    """Prompts may speak of keys, and models, gateways and files have long names."""
    _load(path, text)


def test_key_on_the_command_line_was_seen_by_others(path: Path) -> None:
    """The list of processes shows arguments to every user; a key that stood there must be replaced."""
    for name in ("endpoint.api_key", "endpoint.api_key_env", "request.headers", "request.user", "api_key"):
        (problem,) = _problems(path, REQUEST, settings=[f"{name}={CANARY}"])
        assert problem.startswith(f"--set {name}: {name}: ")
        assert problem.endswith("the list of processes: have the provider replace it")
        assert CANARY not in problem


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (f"limits: {{timeout_s: {CANARY}}}", {}),
        (f"limits: {CANARY}", {}),
        (f"limits: [{CANARY}]", {}),
        ("limits: {timeout_s: d3adb33fd3adb33fd3adb33fd3adb33f}", {}),
        ("limits: {timeout_s: '${INNOCENT}'}", {}),
        ("name: ${INNOCENT}/x", {}),
        (f"checkpoint: {{{CANARY}: 5}}", {}),
        (f"{CANARY}: 5", {}),
        (f"output: {{keep: {CANARY}}}", {}),
        (f"input: {{path: 'https://{CANARY}@h/x'}}", {}),
        (f"a: b: {CANARY}", {}),
        (f"a: !!int {CANARY}", {}),
        (f"a: !{CANARY} x", {}),
        ("", {"settings": [CANARY]}),
        ("", {"settings": [f"{CANARY}=x"]}),
        ("", {"settings": ["d3adb33fd3adb33fd3adb33fd3adb33f"]}),
        ("", {"settings": [f"limits.timeout_s={CANARY}"]}),
        ("name: x", {"settings": [f"name.{CANARY}.x=1"]}),
        ("", {"endpoint": CANARY}),
        ("", {"endpoint": "d3adb33fd3adb33fd3adb33fd3adb33f"}),
        ("", {"endpoint": f"https://{CANARY}@h/v1"}),
        ("", {"endpoint": f"https://h/v1?key={CANARY}"}),
    ],
)
def test_no_error_shows_what_looks_like_a_key(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str, options: dict[str, Any]
) -> None:
    """Wherever a key has got to by mistake, neither message nor traceback repeats it: they end up in logs."""
    monkeypatch.setenv("INNOCENT", CANARY)
    path.write_text(f"{REQUEST}{text}\n")
    with pytest.raises(JobError) as caught:
        load_job(path, **options)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert CANARY[8:] not in shown.replace(repr(CANARY), "")
    assert "d3adb33f" not in shown


@pytest.mark.parametrize("key", ["api_key", "api_key_env"])
def test_key_in_a_mapping_is_in_no_traceback(tmp_path: Path, key: str) -> None:
    """The same for a job from Python, whose errors are printed with all that caused them."""
    with pytest.raises(JobError) as caught:
        job_from_mapping({"request": {"model": "m", "messages": "x"}, "endpoint": {key: CANARY}}, tmp_path)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


# the way to the endpoint


def test_key_of_two_places_is_a_problem(path: Path) -> None:
    """A variable and a file both say where the key is."""
    assert _problems(path, REQUEST + "endpoint:\n  api_key_env: A\n  api_key_file: b\n") == [
        "FILE:8: endpoint.api_key_file: stands beside api_key_env, and both say where the key is; remove one"
    ]


def test_key_file_counts_from_the_job_file(path: Path) -> None:
    """As all paths of a job do."""
    assert _load(path, REQUEST + "endpoint: {api_key_file: k/oxen.key}\n").endpoint.api_key_file == (
        path.parent / "k" / "oxen.key"
    )


OPEN = "leads to another machine without encryption, so that everybody on the way could read the rows and the key"


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "evil-localhost",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "10.0.0.5:8000",
        "192.168.1.2",
        "[::]",
        "[fe80::1]",
        "127.0.0.1%2eevil.com",
        "evil.com%5c.localhost",
        "127。0。0。1",
    ],
)
def test_open_way_to_another_machine_is_refused(path: Path, host: str) -> None:
    """Prompts and key would be readable on the way; what only looks like this machine is another."""
    text = f"{REQUEST}endpoint:\n  base_url: http://{host}/v1\n"
    (problem,) = _problems(path, text)
    assert problem.startswith(f"FILE:7: endpoint.base_url: {OPEN}")
    assert problem.endswith(f"endpoint.allow_http: true; found 'http://{host}/v1'")
    assert _load(path, f"{text}  allow_http: true\n").endpoint.base_url == f"http://{host}/v1"
    assert _problems(path, REQUEST, endpoint=f"HTTP://{host}/v1")[0].startswith(
        f"--endpoint: endpoint.base_url: {OPEN}"
    )


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8391", "127.8.9.1", "[::1]:8000", "localhost", "LOCALHOST:1", "a.localhost"]
)
def test_open_way_within_this_machine_is_allowed(path: Path, host: str) -> None:
    """Nothing leaves the machine."""
    _load(path, f"{REQUEST}endpoint: {{base_url: 'http://{host}/v1'}}\n")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1@evil.com/v1", "http://127.0.0.1\\\\@evil.com/v1", "http://localhost#@h/"]
)
def test_user_in_the_url_hides_no_host(path: Path, url: str) -> None:
    """What stands before an @ is no host, and is not allowed at all."""
    assert "must not carry a user" in _problems(path, f'{REQUEST}endpoint: {{base_url: "{url}"}}\n')[0]


@pytest.mark.parametrize("provider", list(PRESETS))
def test_presets_are_encrypted_or_on_this_machine(path: Path, provider: str) -> None:
    """No provider needs to be allowed."""
    assert not _load(path, f"{REQUEST}endpoint: {{provider: {provider}}}\n").endpoint.is_open_to_read


def test_yaml_problems_come_before_the_jobs(path: Path) -> None:
    """Tabs, duplicate keys and unset variables stop the reading; the file's name stands in the message."""
    assert _problems(path, REQUEST + "limits:\n\tx: 1\n")[0].startswith("FILE:7: is not YAML: a tab stands where")
    assert _problems(path, REQUEST + "name: a\nname: b\nnmae: c\n") == [
        "FILE:7: name: stands twice: here and in line 6; remove one"
    ]


def test_huge_number_is_a_problem(path: Path) -> None:
    """Python prints no integer of more than 4,300 digits; the message must not need it, nor print them all."""
    (problem,) = _problems(path, f"{REQUEST}limits: {{concurrency: 0x{'f' * 5000}}}\n")
    assert problem.startswith("FILE:6: limits.concurrency: ")
    assert len(problem) < 200


def test_unknown_home_folder_is_a_problem(path: Path) -> None:
    """`~name/` of nobody is a wrong path, not a crash."""
    (problem,) = _problems(path, REQUEST + "input: {path: ~nobody-has-this-name/x.csv}\n")
    assert problem.startswith("~nobody-has-this-name/x.csv: the home folder that `~` stands for is not known")


def test_nul_in_a_path_is_a_problem(path: Path) -> None:
    """YAML can write what no file name has."""
    (problem,) = _problems(path, REQUEST + 'input: {path: "a\\0.csv"}\n')
    assert problem == "'a\\x00.csv': has a NUL character in it, which no file name has"


# variables


def test_variables_give_typed_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in the environment is a number in the job; defaults and empty values work as in the shell."""
    monkeypatch.setenv("ATTEMPTS", "3")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    text = (
        REQUEST
        + "limits: {max_attempts: '${ATTEMPTS}', timeout_s: '${UNSET:-9.5}'}\n"
        + "input:\n  path: ${EMPTY:-in.csv}\n  limit: ${ATTEMPTS}\n  id: '$${UNSET}'\n"
    )
    job = _load(path, text)
    assert (job.limits.max_attempts, job.limits.timeout_s) == (3, 9.5)
    assert (job.input.limit, job.input.path, job.input.id) == (3, path.parent / "in.csv", "${UNSET}")


def test_key_never_reaches_the_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the job nor the message has it."""
    monkeypatch.setenv("OXEN_API_KEY", "sk-secret")
    reason = "looks like a secret, which must not get into the job; name it in endpoint.api_key_env"
    assert _problems(path, REQUEST + "name: ${OXEN_API_KEY}\n") == [f"FILE:6: name: ${{OXEN_API_KEY}} {reason}"]


# paths


def test_relative_paths_count_from_the_file(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the command is started does not matter; `..` is resolved, absolute paths stay."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    job = _load(path, REQUEST + "input: {path: ../a/*.csv}\noutput: {path: ./o.csv}\ncheckpoint: {path: /tmp/c.db}\n")
    assert job.input.path == path.parent.parent / "a" / "*.csv"
    assert job.output.path == path.parent / "o.csv"
    assert job.checkpoint.path == Path("/tmp/c.db")


def test_relative_job_file_gives_absolute_paths(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job named as `triage.yaml` works after the process has gone elsewhere."""
    path.write_text(REQUEST + "input: {path: a.csv}\n")
    monkeypatch.chdir(path.parent)
    job = load_job(Path(path.name)).job
    assert job.input.path == path.parent / "a.csv"
    assert job.checkpoint.path == path.parent / ".batchchat" / "triage.sqlite"


def test_home_is_expanded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` means what it means in a shell."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert _load(path, REQUEST + "input: {path: ~/a.csv}\n").input.path == Path("/home/somebody/a.csv")


# --set


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("limits.concurrency=8", ("limits", "concurrency"), 8),
        ("limits.concurrency=auto", ("limits", "concurrency"), "auto"),
        ("output.keep=[a, b]", ("output", "keep"), ["a", "b"]),
        ("output.columns.completion=label", ("output", "columns"), {"completion": "label"}),
        ("name='5'", ("name",), "5"),
        ("name=a=b", ("name",), "a=b"),
        ("input.where=lang = 'en'", ("input", "where"), "lang = 'en'"),
        ("input.id=", ("input", "id"), None),
        (" name =x", ("name",), "x"),
    ],
)
def test_setting_replaces_a_value(path: Path, setting: str, key: tuple[str, ...], value: object) -> None:
    """Values are YAML; sections that the file does not have are made."""
    found: Any = _load(path, REQUEST, settings=[setting])
    for part in key:
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("setting", "body"),
    [
        ("request.temperature=0.5", {"temperature": 0.5}),
        ("request.response_format.type=json_object", {"response_format": {"type": "json_object"}}),
        ("request.a.b.c=1", {"a": {"b": {"c": 1}}}),
        ("request.stop=[x, '1']", {"stop": ["x", "1"]}),
        ("request.x={{ y }}", {"x": "{{ y }}"}),
        ("request.messages.0.content=bye", {"messages": [{"role": "user", "content": "bye"}]}),
        ("request.messages.0.name.first=n", {"messages": [{"role": "user", "content": "hi", "name": {"first": "n"}}]}),
        ("request.messages=[{role: tool}]", {"messages": [{"role": "tool"}]}),
    ],
)
def test_setting_reaches_into_the_request(path: Path, setting: str, body: dict[str, object]) -> None:
    """Mappings are made on the way, lists are counted from 0, a template stays one."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert _load(path, REQUEST, settings=[setting]).request.as_body() == {**plain, **body}


def test_later_setting_wins(path: Path) -> None:
    """Settings are applied in the order given, over the file and over --endpoint."""
    job = _load(path, REQUEST, settings=["name=a", "name=b", "endpoint.name=prod"], endpoint="groq")
    assert (job.name, job.endpoint.provider, job.endpoint.name) == ("b", "groq", "prod")


def test_path_set_counts_from_the_file(path: Path) -> None:
    """A path is relative to the job file, wherever it was written."""
    assert _load(path, REQUEST, settings=["input.path=x.csv"]).input.path == path.parent / "x.csv"


HERE = "--set request.messages"
WRITE = "must be written key=value, such as limits.concurrency=8"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("name", f"--set name: {WRITE}"),
        ("=x", f"--set =x: {WRITE}"),
        ("", f"--set : {WRITE}"),
        ("nmae=x", f"--set nmae: nmae: unknown key; did you mean `name`? Allowed here: {TOP}"),
        ("limits.max_attempts=0", "--set limits.max_attempts: limits.max_attempts: must be at least 1; found 0"),
        ("limits=3", "--set limits: limits: must be a mapping (key: value); found 3"),
        (
            "request.messages.1.content=x",
            f"{HERE}[1].content: there is no 1 here: the value is a list of 1, counted from 0",
        ),
        ("request.messages.1=x", f"{HERE}[1]: there is no 1 here: the value is a list of 1, counted from 0"),
        ("request.messages.-1=x", f"{HERE}.-1: there is no '-1' here: the value is a list of 1, counted from 0"),
        ("request.messages.a=x", f"{HERE}.a: there is no 'a' here: the value is a list of 1, counted from 0"),
    ],
)
def test_wrong_setting_names_itself(path: Path, setting: str, message: str) -> None:
    """A problem of the command line is not blamed on the file."""
    assert _problems(path, REQUEST, settings=[setting]) == [message]


def test_problems_of_file_and_settings_come_together(path: Path) -> None:
    """Both are reported at once, the command line's first."""
    assert _problems(path, REQUEST + "nmae: x\n", settings=["limits.timeout_s=0", "input.limit=0"]) == [
        "--set input.limit: input.limit: must be at least 1; found 0",
        "--set limits.timeout_s: limits.timeout_s: must be more than 0; found 0",
        f"FILE:6: nmae: unknown key; did you mean `name`? Allowed here: {TOP}",
    ]


def test_odd_digit_in_a_setting_is_a_key(path: Path) -> None:
    """A superscript two is no position in a list."""
    assert _problems(path, REQUEST, settings=["request.messages.²=1"])


def test_problem_in_a_replaced_section_is_the_settings(path: Path) -> None:
    """What --set gives is not blamed on the line that it replaced."""
    text = REQUEST + "limits:\n  max_attempts: 3\n"
    assert _problems(path, text, settings=["limits={max_attempts: 0}"]) == [
        "--set limits: limits.max_attempts: must be at least 1; found 0"
    ]


# --endpoint


@pytest.mark.parametrize("provider", ["oxen", "local", "vllm"])
def test_endpoint_option_takes_a_provider(path: Path, provider: str) -> None:
    """The file's whole `endpoint` is replaced: another provider's key or name must not stay."""
    text = REQUEST + "endpoint: {provider: groq, api_key_env: GROQ_KEY, name: prod}\n"
    endpoint = _load(path, text, endpoint=provider).endpoint
    assert endpoint == Endpoint.model_validate({"provider": provider})


def test_endpoint_option_takes_a_url(path: Path) -> None:
    """A server of one's own gets no key and is named by its address."""
    endpoint = _load(path, REQUEST + "endpoint: {provider: groq}\n", endpoint="http://127.0.0.1:8000/v1/").endpoint
    assert endpoint.resolved_base_url == "http://127.0.0.1:8000/v1"
    assert (endpoint.resolved_api_key_env, endpoint.resolved_name) == (None, "127.0.0.1:8000/v1")


@pytest.mark.parametrize("text", ["nope", "Oxen", ""])
def test_unknown_endpoint_lists_the_providers(path: Path, text: str) -> None:
    """What may be written stands in the message."""
    providers = "oxen, openai, openrouter, together, groq, mistral, ollama, vllm, llamacpp, local"
    message = f"--endpoint: {text!r} is neither a provider nor a URL; providers: {providers}"
    assert _problems(path, REQUEST, endpoint=text) == [message]


def test_wrong_url_is_the_options_problem(path: Path) -> None:
    """A URL that cannot be used is not blamed on the file."""
    reason = "must be a whole URL that starts with https:// or http://, such as https://hub.oxen.ai/api/ai"
    assert _problems(path, REQUEST, endpoint="ftp://h") == [f"--endpoint: endpoint.base_url: {reason}; found 'ftp://h'"]


def test_wrong_url_is_not_the_files(path: Path) -> None:
    """The same when the file has a base_url of its own."""
    problem = _problems(path, REQUEST + "endpoint:\n  base_url: http://ok/v1\n", endpoint="ftp://h")[0]
    assert problem.startswith("--endpoint: ")


# overrides by path


def test_overrides_win_over_everything(path: Path) -> None:
    """The command's own options are the last word, and its paths count from the job file as well."""
    overrides = {("input", "limit"): 5, ("output", "path"): "o.csv"}
    job = _load(path, REQUEST + "input: {limit: 9}\n", settings=["input.limit=7"], overrides=overrides)
    assert (job.input.limit, job.output.path) == (5, path.parent / "o.csv")


def test_wrong_override_is_the_command_lines(path: Path) -> None:
    """A bad option is reported as the command line's."""
    assert _problems(path, REQUEST, overrides={("input", "limit"): 0}) == [
        "the command line: input.limit: must be at least 1; found 0"
    ]
    assert _problems(path, REQUEST + "input: 5\n", overrides={("input", "limit"): 1}) == [
        "the command line: there is no 'limit' here: the value is '5'"
    ]


# job_from_mapping


def test_mapping_makes_the_same_job(path: Path) -> None:
    """A job from Python is a job from YAML, except for its name."""
    data = {"request": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "input": {"path": "a.csv"}}
    job = job_from_mapping(data, path.parent).job
    assert job.model_copy(update={"name": "triage", "checkpoint": None}) == _load(
        path, REQUEST + "input: {path: a.csv}\n"
    ).model_copy(update={"checkpoint": None})
    assert job.checkpoint.path == path.parent / ".batchchat" / "job.sqlite"


def test_mapping_is_not_changed(tmp_path: Path) -> None:
    """The caller's own dictionary keeps its relative paths."""
    data = {"request": {"model": "m", "messages": "{{ m }}"}, "input": {"path": "a.csv"}}
    job_from_mapping(data, tmp_path)
    assert data == {"request": {"model": "m", "messages": "{{ m }}"}, "input": {"path": "a.csv"}}


def test_wrong_mapping_names_fields_only(tmp_path: Path) -> None:
    """Where there is no file there are no lines."""
    with pytest.raises(JobError) as caught:
        job_from_mapping({"request": {"model": "m"}, "limits": {"max_attempts": 0}}, tmp_path)
    assert str(caught.value).splitlines() == [
        "the job: request.messages: is required",
        "the job: limits.max_attempts: must be at least 1; found 0",
    ]


# LoadedJob.locate


def _located(path: Path, text: str, **options: Any) -> str:
    """Return the message of the template that names the column `nope`, with FILE for the path."""
    path.write_text(text)
    loaded = load_job(path, **options)
    with pytest.raises(TemplateError) as caught:
        compile_request(loaded.job.request.as_body(), ["a"])
    return str(loaded.locate(caught.value)).replace(str(path), "FILE")


NOPE = "request.messages[0].content: the input has no column 'nope'; Columns: a"
CONTENT = "request:\n  model: m\n  messages:\n    - role: user\n      content: "


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("'{{ nope }}'\n", 5),
        ("\n        '{{ nope }}'\n", 6),
        ("|\n        one\n        {{ nope }}\n", 7),
        ("|-  # note\n        {{ nope }}\n", 6),
        ("|\n\n        one\n\n        {{ nope }}\n", 9),
        ("|\n        one {{ a }}\n        two {{ a }} {{ nope }}\n", 7),
    ],
)
def test_template_error_names_the_files_line(path: Path, content: str, line: int) -> None:
    """In a block scalar the line is the template's own, not that of the key."""
    assert _located(path, CONTENT + content) == f"FILE:{line}: {NOPE}"


def test_escaped_line_ends_are_not_lines(path: Path) -> None:
    """The README's own form of a prompt: one line of the file, three of the text."""
    assert _located(path, CONTENT + '"{{ a }}\\n\\n{{ nope }}"\n') == f"FILE:5: {NOPE}"


def test_template_error_of_a_setting_names_it(path: Path) -> None:
    """The option is to blame, not the line that it replaced."""
    setting = "request.messages.0.content={{ nope }}"
    assert _located(path, CONTENT + "hi\n", settings=[setting]) == f"--set request.messages[0].content: {NOPE}"


@pytest.mark.parametrize("name", ["request.messages", "request.messages.0"])
def test_template_error_inside_a_setting_names_it(path: Path, name: str) -> None:
    """The same for a template inside the value that was set."""
    value = "{role: user, content: '{{ nope }}'}"
    setting = f"{name}={value}" if name.endswith("0") else f"{name}=[{value}]"
    assert _located(path, CONTENT + "hi\n", settings=[setting]).startswith("--set request.messages")


def test_template_error_without_a_file_names_the_field() -> None:
    """A job from Python has no lines."""
    loaded = LoadedJob(job_from_mapping({"request": {"model": "m", "messages": "x"}}, Path()).job)
    problem = loaded.locate(TemplateError(("messages", 0, "content"), 4, "is odd")).problems[0]
    assert (problem.where, problem.field, problem.text) == ("the job", "request.messages[0].content", "is odd")


def test_dotted_writes_paths_as_people_do() -> None:
    """Positions in brackets, keys after dots."""
    assert dotted(("request", "messages", 0, "content")) == "request.messages[0].content"
    assert dotted(()) == ""


# for all input


def _outcome(path: Path, **options: Any) -> LoadedJob | JobError:
    """Return the job, or the JobError; anything else is an error of the test."""
    try:
        return load_job(path, **options)
    except JobError as error:
        return error


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="~"), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT | st.just("{{ x }}")
SECTIONS: list[type[BaseModel]] = [Job, Input, Output, Checkpoint, Endpoint, Request, Limits]
KEYS = st.sampled_from(
    [key for section in SECTIONS for key in section.model_fields] + ["role", "content", "stream", "0"]
)
ANY_KEY = KEYS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_KEY, inner, max_size=5), max_leaves=20
)
SECTION = st.dictionaries(ANY_KEY, VALUES, max_size=5) | VALUES
JOBS = st.fixed_dictionaries(
    {"request": st.fixed_dictionaries({"model": VALUES, "messages": VALUES}) | SECTION},
    optional={key: SECTION for key in Job.model_fields if key != "request"},
)


@pytest.mark.slow
@given(JOBS | VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_is_a_job_or_a_job_error(path: Path, value: object) -> None:
    """Whatever stands in the file, the outcome is a job or a list of problems that name the file."""
    text = yaml.safe_dump(value, allow_unicode=True)
    path.write_text(text.replace("$", ""), encoding="utf-8", newline="")
    outcome = _outcome(path)
    if isinstance(outcome, JobError):
        assert outcome.problems
        assert all(problem.where.startswith(str(path)) and problem.text for problem in outcome.problems)
    else:
        assert outcome.job.name
        assert outcome.job.checkpoint.path
        assert not any(math.isnan(number) for number in (outcome.job.limits.timeout_s, outcome.job.limits.grace_s))


@pytest.mark.slow
@given(st.text(), st.text(st.characters(exclude_characters="!<~"), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_setting_is_a_job_or_a_job_error(path: Path, key: str, value: str) -> None:
    """Nothing that can be typed after --set ends in a traceback."""
    path.write_text(REQUEST)
    plain = "".join(character for character in key if character.isdecimal() or not character.isdigit())
    outcome = _outcome(path, settings=[f"{plain}={value}"])
    assert not isinstance(outcome, JobError) or outcome.problems


def test_sample_jobs_load() -> None:
    """Every job of the repository is a job."""
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    assert jobs
    assert [load_job(job).job.name for job in jobs] == [job.stem for job in jobs]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (".nan", "request.temperature: is nan, which JSON has no number for; write a finite number or remove it"),
        ("-.inf", "request.temperature: is -inf, which JSON has no number for; write a finite number or remove it"),
        (str(10**30), "request.temperature: is 1000000000000000000000000000000, beyond the 64 bits of an integer;"),
    ],
)
def test_number_that_cannot_be_sent_is_a_problem(path: Path, value: str, words: str) -> None:
    """What JSON has not would be sent as null, or fail every row."""
    (problem,) = _problems(path, f"request:\n  model: m\n  messages: x\n  temperature: {value}\n")
    assert problem.startswith(f"FILE:4: {words}")
