"""The exception tree with its exit codes, and the job file's keys: defaults, bounds, presets."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from batchchat import errors
from batchchat.errors import BatchchatError, InterruptedRunError, JobError, Problem, TemplateError
from batchchat.job.job import (
    PRESETS,
    Checkpoint,
    Endpoint,
    Input,
    Job,
    Limits,
    Notify,
    Output,
    Price,
    Request,
)

MESSAGES = [{"role": "user", "content": "hi"}]
REQUEST = {"model": "m", "messages": MESSAGES}


def _errors(model: type[BaseModel], values: object) -> list[tuple[str, str]]:
    """Return (field, kind) of everything that pydantic finds wrong."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return [(str(error["loc"][0]) if error["loc"] else "", error["type"]) for error in caught.value.errors()]


def _message(model: type[BaseModel], values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return caught.value.errors()[0]["msg"]


def _classes() -> dict[str, type[BatchchatError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BatchchatError)]
    return {value.__name__: value for value in found}


# errors.py


def test_tree_in_the_docstring_is_the_tree() -> None:
    """The drawing names every class, under its base and with its exit code, and nothing else."""
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    codes: dict[str, int] = {}
    for line in (errors.__doc__ or "").splitlines():
        if not (match := re.match(r"([ │├└─]*)(\w+Error)\b\s*(\d+)?", line)):
            continue
        depth, name = len(match.group(1)), match.group(2)
        stack = [(column, above) for column, above in stack if column < depth]
        drawn[name] = stack[-1][1] if stack else "Exception"
        codes[name] = int(match.group(3) or codes.get(drawn[name], 2))
        stack.append((depth, name))
    classes = _classes()
    assert drawn == {name: value.__base__.__name__ for name, value in classes.items() if value.__base__}
    fixed = {name: code for name, code in codes.items() if name not in ("BatchchatError", "InterruptedRunError")}
    assert fixed == {name: classes[name].exit_code for name in fixed}


def test_exit_codes_are_the_contract() -> None:
    """0 and 1 are no exceptions; 2 to 5 belong to classes; every exception has a code above 1."""
    assert (errors.EXIT_ANSWERED, errors.EXIT_ROWS_FAILED) == (0, 1)
    assert {name: value.exit_code for name, value in _classes().items()} == {
        "BatchchatError": 2,
        "UsageError": 2,
        "JobError": 2,
        "TemplateError": 2,
        "InputError": 2,
        "OutputError": 2,
        "CheckpointError": 3,
        "CheckpointLockedError": 3,
        "CheckpointDamagedError": 3,
        "CheckpointForeignError": 3,
        "CheckpointMissingError": 3,
        "CheckpointNewerError": 3,
        "CheckpointOlderError": 3,
        "StorageError": 3,
        "EndpointRefusedError": 4,
        "LimitReachedError": 5,
        "InterruptedRunError": 2,
        "NotConfirmedError": 130,
    }


@pytest.mark.parametrize(("number", "name", "code"), [(2, "SIGINT", 130), (15, "SIGTERM", 143), (1, "SIGHUP", 129)])
def test_interruption_carries_its_signals_code(number: int, name: str, code: int) -> None:
    """The signal decides the exit code, on the exception and not on its class."""
    error = InterruptedRunError(number)
    found = (error.exit_code, error.outcome, str(error), error.summary)
    assert found == (code, "interrupted", f"stopped by {name}", None)
    assert InterruptedRunError.exit_code == 2


def test_outcomes_are_the_summarys_words() -> None:
    """Refused, stopped and interrupted runs have their own word; everything else failed."""
    words = {name: value.outcome for name, value in _classes().items() if value.outcome != "failed"}
    own = {
        "EndpointRefusedError": "refused",
        "LimitReachedError": "stopped",
        "InterruptedRunError": "interrupted",
        "NotConfirmedError": "interrupted",
    }
    assert words == own


def test_job_error_prints_a_line_a_problem() -> None:
    """Empty parts of a problem leave no stray colons."""
    error = JobError([Problem("j.yaml:3", "limits.x", "is odd"), Problem("j.yaml", "", "is empty")])
    assert str(error) == "j.yaml:3: limits.x: is odd\nj.yaml: is empty"
    assert error.problems == (Problem("j.yaml:3", "limits.x", "is odd"), Problem("j.yaml", "", "is empty"))


def test_template_error_names_its_path() -> None:
    """The message leads with the dotted path; path, line and text stay apart for the job file's line."""
    error = TemplateError(("messages", 0, "content"), 3, "is odd")
    assert str(error) == "messages.0.content: is odd"
    assert (error.path, error.line, error.text) == (("messages", 0, "content"), 3, "is odd")


# defaults and bounds


def test_smallest_job_has_the_defaults() -> None:
    """A job needs only a request; everything else has the documented default."""
    job = Job.model_validate({"request": REQUEST})
    assert job.name == "job"
    assert job.input == Input(path=None, format=None, where=None, limit=None, id=None)
    assert job.output == Output(path=None, columns={}, prefix="", keep=None)
    assert job.checkpoint == Checkpoint(path=None, dedupe=True)
    assert job.endpoint == Endpoint(provider=None, base_url=None, api_key_env=None, name=None)
    assert job.limits.model_dump() == {
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "concurrency": "auto",
        "max_concurrency": 4096,
        "max_attempts": 6,
        "timeout_s": 120.0,
        "connect_timeout_s": 20.0,
        "first_byte_timeout_s": None,
        "idle_timeout_s": None,
        "max_outage": 3600.0,
        "in_flight_bytes": 256 * 2**20,
        "grace_s": 30.0,
        "budget_usd": None,
        "budget_tokens": None,
        "budget_scope": "job",
        "confirm_above_usd": None,
        "deadline": None,
        "max_error_rate": None,
    }
    assert (job.price, job.notify, job.output.mode) == (None, None, "replace")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
    ],
)
def test_duration_is_seconds_or_a_text_with_units(written: object, seconds: float) -> None:
    """A number is seconds; a text says its units, the largest first."""
    assert Limits.model_validate({"max_outage": written}).max_outage == seconds


@pytest.mark.parametrize("written", ["", "h", "10", "5x", "30m1h", "-5s", 0, -1, True, float("inf"), "9999h"])
def test_what_is_no_duration_is_an_error(written: object) -> None:
    """A text without units might mean anything."""
    if written == "10":
        assert Limits.model_validate({"max_outage": written}).max_outage == 10.0  # as any number in quotes
    else:
        assert [field for field, _ in _errors(Limits, {"max_outage": written})] == ["max_outage"]


def test_job_is_frozen() -> None:
    """A loaded job cannot be changed under a run."""
    job = Job.model_validate({"request": REQUEST})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(job.limits, "max_attempts", 1)  # noqa: B010 -- mypy knows that it is frozen


@pytest.mark.parametrize(
    ("key", "lowest", "highest"),
    [("concurrency", 1, 4096), ("max_concurrency", 1, 65_536), ("max_attempts", 1, 100), ("grace_s", 0, 3600)],
)
def test_limits_take_their_bounds(key: str, lowest: int, highest: int) -> None:
    """The bounds themselves are allowed, one past them is not."""
    for value in (lowest, highest):
        assert getattr(Limits.model_validate({key: value}), key) == value
    for value in (lowest - 1, highest + 1):
        assert key in {field for field, _ in _errors(Limits, {key: value})}


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("requests_per_minute", 0, "greater_than"),
        ("tokens_per_minute", -1, "greater_than"),
        ("timeout_s", 0, "greater_than"),
        ("timeout_s", 86401, "less_than_equal"),
        ("max_attempts", 1.5, "int_from_float"),
        ("max_attempts", "many", "int_parsing"),
        ("timeout_s", float("nan"), "less_than_equal"),
    ],
)
def test_limits_out_of_bounds_are_refused(key: str, value: object, kind: str) -> None:
    """Each bound has its own kind of error, which the message is made from."""
    assert _errors(Limits, {key: value}) == [(key, kind)]


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        (Input, {"limit": 0}, ("limit", "greater_than_equal")),
        (Input, {"where": ""}, ("where", "string_too_short")),
        (Input, {"id": ""}, ("id", "string_too_short")),
        (Input, {"format": "tsv"}, ("format", "literal_error")),
        (Input, {"path": ""}, ("path", "value_error")),
        (Input, {"path": "s3://bucket/key"}, ("path", "value_error")),
        (Output, {"columns": {"completion": ""}}, ("columns", "string_too_short")),
        (Output, {"keep": [""]}, ("keep", "string_too_short")),
        (Output, {"prefix": None}, ("prefix", "string_type")),
        (Checkpoint, {"dedupe": "maybe"}, ("dedupe", "bool_parsing")),
        (Endpoint, {"provider": "anthropic"}, ("provider", "literal_error")),
        (Endpoint, {"name": ""}, ("name", "string_too_short")),
        (Endpoint, {"api_key_env": "not a name"}, ("api_key_env", "string_pattern_mismatch")),
        (Endpoint, {"api_key_env": "NAME\n"}, ("api_key_env", "string_pattern_mismatch")),
        (Request, {"model": "", "messages": MESSAGES}, ("model", "string_too_short")),
        (Request, {"model": "m", "messages": []}, ("messages", "value_error")),
        (Input, {"pth": "x"}, ("pth", "extra_forbidden")),
        (Output, {"pth": "x"}, ("pth", "extra_forbidden")),
        (Checkpoint, {"pth": "x"}, ("pth", "extra_forbidden")),
        (Endpoint, {"api_key": "sk-1"}, ("api_key", "extra_forbidden")),
        (Limits, {"budget": 5}, ("budget", "extra_forbidden")),
        (Limits, {"budget_usd": 0}, ("budget_usd", "greater_than")),
        (Limits, {"budget_tokens": 0}, ("budget_tokens", "greater_than_equal")),
        (Limits, {"budget_scope": "night"}, ("budget_scope", "literal_error")),
        (Limits, {"confirm_above_usd": -1}, ("confirm_above_usd", "greater_than_equal")),
        (Limits, {"max_error_rate": 2}, ("max_error_rate", "less_than_equal")),
        (Output, {"mode": "add"}, ("mode", "literal_error")),
        (Price, {"input": 1}, ("output", "missing")),
        (Price, {"input": -1, "output": 1}, ("input", "greater_than_equal")),
        (Notify, {"url": "hooks.example/x"}, ("url", "value_error")),
        (Notify, {"url": "https://user:secret@hooks.example/x"}, ("url", "value_error")),
        (Notify, {"url": "https://hooks.example:99999/x"}, ("url", "value_error")),
        (Notify, {"url": "https://hooks.example/x", "timeout_s": 0}, ("timeout_s", "greater_than")),
        (Job, {"request": REQUEST, "notify": "hooks.example/x"}, ("notify", "value_error")),
        (Job, {"request": REQUEST, "prices": {}}, ("prices", "extra_forbidden")),
    ],
)
def test_bad_value_is_refused_once(model: type[BaseModel], values: dict[str, Any], expected: tuple[str, str]) -> None:
    """Every wrong value gives one error of the right kind."""
    assert _errors(model, values) == [expected]


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a\nb", "a\0b", "x" * 201])
def test_name_unfit_for_a_file_is_refused(name: str) -> None:
    """The name becomes part of a file name."""
    assert _errors(Job, {"name": name, "request": REQUEST})[0][0] == "name"


# endpoint


@pytest.mark.parametrize("provider", list(PRESETS))
def test_preset_gives_url_key_and_name(provider: str) -> None:
    """A provider alone says where to go, which variable holds the key, and what the endpoint is called."""
    endpoint = Endpoint.model_validate({"provider": provider})
    assert endpoint.preset == PRESETS[provider]
    assert endpoint.resolved_base_url == PRESETS[provider].base_url
    assert endpoint.resolved_api_key_env == PRESETS[provider].api_key_env
    assert endpoint.resolved_name == provider
    assert endpoint.is_embedded == (provider == "local")


def test_presets_are_the_providers_of_the_schema() -> None:
    """No provider is accepted that has no preset, and none is hidden."""
    provider = Endpoint.model_json_schema()["properties"]["provider"]["anyOf"][0]["enum"]
    assert provider == list(PRESETS)
    expected = "oxen openai openrouter together groq mistral ollama vllm llamacpp local"
    assert list(PRESETS) == expected.split()


def test_presets_name_their_key_variables() -> None:
    """Hosted providers have a key variable, servers on this machine have none."""
    assert {name: preset.api_key_env for name, preset in PRESETS.items()} == {
        "oxen": "OXEN_API_KEY",
        "openai": "OPENAI_API_KEY",
        "openrouter": "OPENROUTER_API_KEY",
        "together": "TOGETHER_API_KEY",
        "groq": "GROQ_API_KEY",
        "mistral": "MISTRAL_API_KEY",
        "ollama": None,
        "vllm": None,
        "llamacpp": None,
        "local": None,
    }


def test_empty_endpoint_is_oxen() -> None:
    """Without a word about the endpoint, it is Oxen's."""
    endpoint = Endpoint()
    assert endpoint.resolved_base_url == "https://hub.oxen.ai/api/ai"
    assert endpoint.resolved_api_key_env == "OXEN_API_KEY"
    assert endpoint.resolved_name == "oxen"
    assert not endpoint.is_embedded


def test_bare_base_url_has_no_key() -> None:
    """A URL of one's own never gets a provider's key, and is named by host, port and path."""
    endpoint = Endpoint(base_url="http://127.0.0.1:8000/v1")
    assert endpoint.preset is None
    assert endpoint.resolved_api_key_env is None
    assert endpoint.resolved_name == "127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://proxy.example/v1", None),
        ("https://api.openai.com.evil.example/v1", None),
        ("https://api.openai.com:8443/v1", None),
        ("http://api.openai.com/v1", None),
        ("http://api.openai.com:443/v1", None),
        ("https://API.openai.com:443/v2", "OPENAI_API_KEY"),
    ],
)
def test_providers_key_is_for_its_host_alone(url: str, variable: str | None) -> None:
    """A provider at another address gets its key only when the job names it; another path is the same host."""
    endpoint = Endpoint(provider="openai", base_url=url)
    assert endpoint.resolved_base_url == url
    assert endpoint.resolved_api_key_env == variable
    assert Endpoint(provider="openai", base_url=url, api_key_env="OPENAI_API_KEY").resolved_api_key_env is not None


def test_provider_at_another_address_has_another_name() -> None:
    """Its answers are not those of the provider."""
    assert Endpoint(provider="openai", base_url="https://proxy.example/v1").resolved_name == "proxy.example/v1"


def test_key_file_takes_the_place_of_the_variable() -> None:
    """A job that names a file does not get the provider's variable."""
    assert Endpoint(provider="openai", api_key_file=Path("/k")).resolved_api_key_env is None


def test_presets_own_url_keeps_its_name() -> None:
    """Writing the preset's URL out does not change the key of an answer."""
    assert Endpoint(provider="groq", base_url="https://api.groq.com/openai/v1/").resolved_name == "groq"


def test_local_with_base_url_is_not_embedded() -> None:
    """A URL means a server that runs already."""
    assert not Endpoint(provider="local", base_url="http://127.0.0.1:1/v1").is_embedded


def test_own_values_win_over_the_preset() -> None:
    """`name` and `api_key_env` replace what the provider gives."""
    endpoint = Endpoint(provider="oxen", name="prod", api_key_env="MY_KEY")
    assert (endpoint.resolved_name, endpoint.resolved_api_key_env) == ("prod", "MY_KEY")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://h/v1", "https://h/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("https://h/v1/chat/completions/", "https://h/v1"),
        ("https://h", "https://h"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_base_url_loses_its_tail(written: str, kept: str) -> None:
    """A pasted route or slash at the end does no harm."""
    assert Endpoint(base_url=written).base_url == kept


SECRET = "must not carry a user, a password, a query or a fragment; the key is named by endpoint.api_key_env"
WHOLE = "must be a whole URL that starts with https:// or http://, such as https://hub.oxen.ai/api/ai"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://sk-abc@h/v1", SECRET),
        ("https://user:sk-abc@h/v1", SECRET),
        ("https://h/v1?api_key=sk-abc", SECRET),
        ("https://h/v1#sk-abc", SECRET),
        ("hub.oxen.ai/api/ai", WHOLE),
        ("", WHOLE),
        ("ftp://h/v1", WHOLE),
        ("https://", WHOLE),
        ("http://h:0/v1", WHOLE),
        ("http://h:99999/v1", WHOLE),
        ("http://[::1/v1", WHOLE),
    ],
)
def test_unusable_base_url_is_refused(url: str, message: str) -> None:
    """A key in the URL and a URL that leads nowhere are both found before the run."""
    assert _message(Endpoint, {"base_url": url}) == f"Value error, {message}"


@pytest.mark.parametrize("url", ["http://h a/v1", "http://h/v1\n", " http://h/v1", "http://h/\x01", "http://h/v1?"])
def test_base_url_with_blanks_is_refused(url: str) -> None:
    """A blank, a control character or a query can stand in no base URL; found at load, not at the first request."""
    words = "Value error, must not carry a user" if url.endswith("?") else "Value error, must be a whole URL"
    assert _message(Endpoint, {"base_url": url}).startswith(words)


@pytest.mark.parametrize("key", ["requests_per_minute", "tokens_per_minute"])
def test_infinite_rate_is_refused(key: str) -> None:
    """Infinity is not a rate: leave the key out instead."""
    assert _message(Limits, {key: float("inf")}) == "Input should be a finite number"


@pytest.mark.parametrize("model_and_values", [(Input, {"limit": True}), (Limits, {"concurrency": True})])
def test_true_is_not_a_number(model_and_values: tuple[type[BaseModel], dict[str, Any]]) -> None:
    """`limit: true` must not read one row of the table."""
    model, values = model_and_values
    assert (next(iter(values)), "value_error") in _errors(model, values)


@pytest.mark.parametrize("model", [Output, Checkpoint])
def test_empty_path_is_refused(model: type[BaseModel]) -> None:
    """An empty path is a variable that was not filled in, never a folder."""
    assert _message(model, {"path": ""}) == "Value error, must not be empty"


@pytest.mark.parametrize("model", [Output, Checkpoint])
def test_url_as_path_is_refused(model: type[BaseModel]) -> None:
    """`s3://bucket/x` must not become the folder `s3:` beside the process."""
    assert _message(model, {"path": "s3://bucket/x.parquet"}).startswith("Value error, is a URL, and batchchat reads")


# request


def test_body_does_not_depend_on_the_files_order() -> None:
    """Parameters come out by name, after model and messages."""
    one = Request.model_validate({"top_p": 1, "messages": MESSAGES, "model": "m", "max_tokens": 5})
    two = Request.model_validate({"model": "m", "max_tokens": 5, "messages": MESSAGES, "top_p": 1})
    assert list(one.as_body().items()) == list(two.as_body().items())
    assert list(one.as_body()) == ["model", "messages", "max_tokens", "top_p"]


def test_any_other_key_is_sent_as_it_stands() -> None:
    """Names that a pydantic model has for itself are keys of the body like any other."""
    extra = {"model_config": 1, "as_body": None, "copy": [], "__dict__": {"a": 1}, "tools": [{"type": "function"}]}
    body = Request.model_validate({**REQUEST, **extra}).as_body()
    assert body == {**REQUEST, **extra}


@pytest.mark.parametrize("value", [None, False, True, "{{ x }}"])
def test_stream_is_sent_as_written(value: object) -> None:
    """True, false, or a template that says it for each row."""
    assert Request.model_validate({**REQUEST, "stream": value}).as_body()["stream"] == value


@pytest.mark.parametrize("value", ["true", "yes", "x"])
def test_stream_that_is_text_is_refused(value: object) -> None:
    """A text that is no template would be sent as a text, which no endpoint takes."""
    assert _message(Request, {**REQUEST, "stream": value}) == "Value error, must be true or false"


def test_schema_of_answers_is_that_of_the_response_format() -> None:
    """A schema that is the same for all rows is known before the first; one with a template in it is not."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert Request.model_validate({**REQUEST, "response_format": wanted}).schema_of_answers == schema
    wanted["json_schema"] = {"schema": {**schema, "title": "{{ x }}", "description": "of {{ x }}"}}
    assert Request.model_validate({**REQUEST, "response_format": wanted}).schema_of_answers == schema
    wanted["json_schema"] = {"schema": {**schema, "required": ["{{ x }}"]}}
    assert Request.model_validate({**REQUEST, "response_format": wanted}).schema_of_answers is None
    assert Request.model_validate({**REQUEST, "response_format": {"type": "json_object"}}).schema_of_answers is None
    assert Request.model_validate(REQUEST).schema_of_answers is None
    wanted["json_schema"] = {"schema": {**schema, "const": {"title": "a"}}}
    assert Request.model_validate({**REQUEST, "response_format": wanted}).schema_of_answers == {
        **schema,
        "const": {"title": "a"},
    }


@pytest.mark.parametrize(("model", "varies"), [("gpt-5", False), ("{{ m }}", True), ("{% if x %}a{% endif %}", True)])
def test_model_varies_where_it_is_a_template(model: str, varies: bool) -> None:
    """A row's own model may be unknown without the job being wrong."""
    assert Request.model_validate({**REQUEST, "model": model}).model_varies == varies


@pytest.mark.parametrize(
    ("extra", "columns"),
    [
        ({}, set()),
        ({"n": 1}, set()),
        ({"n": 3, "logprobs": True}, {"completions", "logprobs"}),
        ({"n": "{{ x }}", "logprobs": False}, {"completions"}),
    ],
)
def test_optional_columns_are_those_with_a_use(extra: dict[str, object], columns: set[str]) -> None:
    """Columns for several choices and for log probabilities are there when the request asks for these."""
    assert Request.model_validate({**REQUEST, **extra}).optional_columns == columns


def test_messages_may_be_one_template() -> None:
    """A whole conversation from a column is a text in the job."""
    assert Request.model_validate({"model": "m", "messages": "{{ chat }}"}).messages == "{{ chat }}"


def test_paths_are_paths() -> None:
    """A path from Python stays one."""
    assert Input(path=Path("a.csv")).path == Path("a.csv")
