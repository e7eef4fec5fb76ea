"""The job file as pydantic models: every key, its bounds and its default stand here, once.

Paths in it are absolute when it comes from `file.py`.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    field_validator,
)

from batchchat.job.types import Deadline, Duration, FilePath, NoBool, NonEmpty, PositiveFloat, Size

InputFormat = Literal["parquet", "csv", "jsonl", "arrow"]
ProviderName = Literal[
    "oxen", "openai", "openrouter", "together", "groq", "mistral", "ollama", "vllm", "llamacpp", "local"
]


@dataclass(frozen=True, slots=True)
class Preset:
    """Where a provider is, and the environment variable that holds its key (None: it asks for none)."""

    base_url: str
    api_key_env: str | None


PRESETS: dict[str, Preset] = {
    "oxen": Preset("https://hub.oxen.ai/api/ai", "OXEN_API_KEY"),
    "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together": Preset("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": Preset("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "ollama": Preset("http://127.0.0.1:11434/v1", None),
    "vllm": Preset("http://127.0.0.1:8000/v1", None),
    "llamacpp": Preset("http://127.0.0.1:8080/v1", None),
    "local": Preset("http://127.0.0.1/api/ai", None),
}


class Section(BaseModel):
    """A part of the job file: unknown keys are errors, values are frozen."""

    # An input may be a key in the wrong place: pydantic's own words, which a traceback has, must not show it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Input(Section):
    """The table that is read; batchchat never modifies it."""

    path: FilePath | None = None
    """File, glob or folder; relative to the job file. Required, except with a frame in Python."""
    format: InputFormat | None = None
    """Default: by the suffix: `.csv`, `.jsonl`, `.ndjson`, `.parquet`, `.arrow`; text formats also `.gz` and `.zst`."""
    where: NonEmpty | None = None
    """SQL condition on the columns of one row, such as `lang = 'en'`; rows that do not meet it are left out."""
    limit: Annotated[int, Field(ge=1), NoBool] | None = None
    """Read at most this many rows."""
    id: NonEmpty | None = None
    """Column that names a row in errors; default: the row number, from 1."""
    media_root: FilePath | None = None
    """Folder of the images and videos that rows name by relative paths; default: the input's folder."""
    max_media_bytes: Size = ByteSize(20 * 2**20)
    """Largest image or video file that is sent, such as `20MB`."""
    max_image_side: Annotated[int, Field(ge=1), NoBool] | None = None
    """Shrink local images whose longer side has more pixels; needs Pillow (`pip install 'batchchat[images]'`)."""


class Output(Section):
    """The table that is written: input columns, then the new ones."""

    path: FilePath | None = None
    """`.parquet`, `.csv` or `.jsonl`, in a folder that exists, or a folder for one file per input file; relative to the
    job file. Required, except in Python."""
    mode: Literal["replace", "append"] = "replace"
    """`append` keeps the rows that earlier inputs wrote, and puts those of this one after them."""
    columns: dict[str, NonEmpty] = {}
    """New names for output columns, such as `{completion: label}`."""
    prefix: str = ""
    """Put before the name of every new column that `columns` does not rename."""
    keep: list[NonEmpty] | None = None
    """Input columns to write; default: all."""
    raw: bool = False
    """Write the whole reply, as JSON text, as the column `raw`."""
    spreadsheet_safe: bool = False
    """In CSV, put `'` before texts that a spreadsheet would take for a formula; other formats stay as they are."""


class Checkpoint(Section):
    """Where answers are kept, and what makes two requests the same."""

    path: FilePath | None = None
    """Default: `.batchchat/<name>.sqlite` beside the job file."""
    dedupe: bool = True
    """Identical requests are asked once; false: each row is asked for itself."""


def _checked_url(url: str, example: str = "") -> SplitResult:
    """Return the parts of an absolute http(s) URL. No message has the URL, which may be a secret."""
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not url.isprintable() or " " in url:
        raise ValueError(f"must be a whole URL that starts with https:// or http://{example}")
    return parts


def _checked_base_url(url: str) -> str:
    """Return an absolute http(s) URL without secrets, and without a trailing slash or `/chat/completions`."""
    parts = _checked_url(url, ", such as https://hub.oxen.ai/api/ai")
    if "@" in parts.netloc or "?" in url or "#" in url:
        message = "must not carry a user, a password, a query or a fragment; the key is named by endpoint.api_key_env"
        raise ValueError(message)
    return url.rstrip("/").removesuffix("/chat/completions").rstrip("/")


def _checked_webhook(url: str) -> str:
    """Return an absolute http(s) URL without a user and a password."""
    if "@" in _checked_url(url).netloc or "#" in url:
        raise ValueError("must not carry a user, a password or a fragment")
    return url


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine for certain; other spellings of its address count as elsewhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return re.fullmatch(r"([a-z0-9_-]+\.)*localhost", host) is not None


def _origin(url: str) -> tuple[str, str | None, int]:
    """Return what must be the same for a key to be sent: how, to which host, to which port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


class Endpoint(Section):
    """Where requests go, and the name of the variable that holds the key. The key itself never stands in the file."""

    provider: ProviderName | None = None
    """A preset of `base_url` and `api_key_env`; default: oxen, unless `base_url` is given."""
    base_url: Annotated[str, AfterValidator(_checked_base_url)] | None = None
    """The URL that `/chat/completions` is appended to; default: the provider's."""
    api_key_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable that holds the API key; default: the provider's, unless `base_url` leads to another host."""
    api_key_file: FilePath | None = None
    """File that holds the API key and nothing else, in place of a variable; relative to the job file."""
    allow_http: StrictBool = False
    """Allow a `base_url` with http:// that is not on this machine: prompts and key then travel unencrypted."""
    name: NonEmpty | None = None
    """Part of an answer's identity; default: the provider, or the base URL's host and path."""

    @property
    def preset(self) -> Preset | None:
        """The provider's preset, or None when only `base_url` says where to go."""
        name = self.provider_or_default
        return PRESETS[name] if name else None

    @property
    def is_embedded(self) -> bool:
        """Whether the run starts the embedded endpoint for itself."""
        return self.provider == "local" and self.base_url is None

    @property
    def resolved_base_url(self) -> str:
        """`base_url`, or the provider's."""
        return self.base_url or PRESETS[self.provider or "oxen"].base_url

    @property
    def provider_or_default(self) -> ProviderName | None:
        """`provider`, or the default where nothing says where to go."""
        return self.provider if self.provider is not None or self.base_url is not None else "oxen"

    @property
    def resolved_api_key_env(self) -> str | None:
        """`api_key_env`, or the provider's; None when the key is in no variable, or none is sent.

        A provider's key belongs to that provider's host: it goes to no other.
        """
        if self.api_key_env is not None or self.api_key_file is not None or self.preset is None:
            return self.api_key_env
        is_at_home = _origin(self.resolved_base_url) == _origin(self.preset.base_url)
        return self.preset.api_key_env if is_at_home else None

    @property
    def is_open_to_read(self) -> bool:
        """Whether requests go to another machine without encryption."""
        parts = urlsplit(self.resolved_base_url)
        return parts.scheme != "https" and not is_loopback(parts.hostname or "")

    @property
    def resolved_name(self) -> str:
        """The endpoint's part of an answer's key."""
        if self.name is not None:
            return self.name
        if self.preset is not None and self.base_url in (None, self.preset.base_url):
            return self.provider or "oxen"
        parts = urlsplit(self.resolved_base_url)
        return f"{parts.netloc}{parts.path}"


def _has_template(value: Any) -> bool:
    """Whether a string in `value`, at any depth, is a template."""
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, dict):
        return any(_has_template(item) for pair in value.items() for item in pair)
    return isinstance(value, list) and any(_has_template(item) for item in value)


def _without_notes(schema: Any) -> Any:
    """Return a JSON Schema without its titles and descriptions, which may differ from row to row."""
    if isinstance(schema, dict):
        notes = ("title", "description", "$comment")
        kept = {key: item for key, item in schema.items() if not (key in notes and isinstance(item, str))}
        return {key: _without_notes(item) for key, item in kept.items()}
    return [_without_notes(item) for item in schema] if isinstance(schema, list) else schema


class Request(BaseModel):
    """The body of the request, as the API has it; every string in it is a Jinja2 template over the row."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    model: NonEmpty
    """The model to ask."""
    messages: list[dict[str, Any]] | NonEmpty
    """The conversation: a list of messages, or one template that gives such a list."""
    stream: StrictBool | NonEmpty | None = None
    """Whether replies come in pieces: the answers are the same, and `first_token_s` says when each began."""
    response_schema: dict[str, Any] | NonEmpty | None = None
    """What an answer must be, sent as a strict `response_format`: `{category: [billing, other], urgent: boolean}`, a
    JSON Schema, the path of one, or `module:Class` of a Pydantic model."""

    @field_validator("messages")
    @classmethod
    def _at_least_one(cls, messages: list[dict[str, Any]] | str) -> list[dict[str, Any]] | str:
        if not messages:
            raise ValueError("must hold at least one message")
        return messages

    @field_validator("stream")
    @classmethod
    def _true_or_false(cls, stream: bool | str | None) -> bool | str | None:
        if isinstance(stream, str) and not _has_template(stream):
            raise ValueError("must be true or false")
        return stream

    @property
    def schema_of_answers(self) -> Any:
        """The JSON Schema that answers must fit; None when there is none, or when each row has its own.

        It is that of `response_schema`, or else the one that `response_format` asks for.
        """
        if isinstance(self.response_schema, dict):
            return self.response_schema
        wanted = (self.model_extra or {}).get("response_format")
        wanted = wanted.get("json_schema") if isinstance(wanted, dict) and wanted.get("type") == "json_schema" else None
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        if _has_template(schema):
            schema = _without_notes(schema)
        return None if _has_template(schema) else schema

    @property
    def model_varies(self) -> bool:
        """Whether the rows name the model."""
        return _has_template(self.model)

    @property
    def optional_columns(self) -> frozenset[str]:
        """The output columns that only this request has a use for."""
        extra = self.model_extra or {}
        asked = {"completions": extra.get("n") not in (None, 1), "logprobs": bool(extra.get("logprobs"))}
        return frozenset(name for name, is_asked in asked.items() if is_asked)

    def as_body(self) -> dict[str, Any]:
        """The body to send: model, messages, then the rest by name, so that the order in the file does not count."""
        extra = {**(self.model_extra or {}), **({"stream": self.stream} if "stream" in self.model_fields_set else {})}
        return {"model": self.model, "messages": self.messages, **{key: extra[key] for key in sorted(extra)}}


class Limits(Section):
    """How fast to go, and when to give a row up."""

    requests_per_minute: PositiveFloat | None = None
    """Requests started in any minute, at most."""
    tokens_per_minute: PositiveFloat | None = None
    """Prompt and completion tokens in any minute, at most; estimated before a request, settled by its `usage`."""
    concurrency: Literal["auto"] | Annotated[int, Field(ge=1, le=4096), NoBool] = "auto"
    """Requests in flight at once; `auto` starts low and finds the endpoint's own limit."""
    max_concurrency: Annotated[int, Field(ge=1, le=65536), NoBool] = 4096
    """Requests in flight at once, at most, for `auto`; the open files that the system allows may bound them further."""
    max_attempts: Annotated[int, Field(ge=1, le=100), NoBool] = 6
    """Attempts of one row before it fails; rate limits (429) do not count."""
    timeout_s: Annotated[float, Field(gt=0, le=86400), NoBool] = 120
    """Seconds for one attempt, from connect to the last byte."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=3600), NoBool] = 20
    """Seconds to connect; what never connected was never billed."""
    first_byte_timeout_s: Annotated[float, Field(gt=0, le=86400), NoBool] | None = None
    """Seconds from connect to the reply's first byte; default: `timeout_s`."""
    idle_timeout_s: Annotated[float, Field(gt=0, le=86400), NoBool] | None = None
    """Seconds between two pieces of a reply; default: `timeout_s`."""
    max_outage: Duration = 3600
    """How long an endpoint that is down, or whose daily quota is used up, is waited for: `90s`, `10m`, `1h`. One that
    never answered, nor in the run before, counts as not there after a few tries, unless this is given."""
    in_flight_bytes: Size = ByteSize(256 * 2**20)
    """Bytes of the requests in flight at once, such as `256MB`; a larger request goes alone."""
    grace_s: Annotated[float, Field(ge=0, le=3600), NoBool] = 30
    """Seconds that requests in flight may still take after Ctrl-C or SIGTERM."""
    budget_usd: PositiveFloat | None = None
    """Dollars that are never exceeded; needs a known price, and `max_tokens` in the request."""
    budget_tokens: Annotated[int, Field(ge=1), NoBool] | None = None
    """Prompt and completion tokens that are never exceeded; needs `max_tokens` in the request."""
    budget_scope: Literal["job", "run"] = "job"
    """What the budgets are for: everything that the checkpoint knows to be spent, or each run for itself."""
    confirm_above_usd: Annotated[float, Field(ge=0, allow_inf_nan=False), NoBool] | None = None
    """On a terminal, `run` asks before it spends more than this by its own estimate."""
    deadline: Deadline | None = None
    """When a run stops: after so long (`6h`), or at a time of day (`06:30`, local time); the same command goes on."""
    max_error_rate: Annotated[float, Field(ge=0, le=1), NoBool] | None = None
    """Share of a run's finished rows that may fail; past it, the run stops. The first 50 rows count as 50."""


class Price(Section):
    """What tokens cost, in USD per million; it wins over every price that is found elsewhere."""

    input: Annotated[float, Field(ge=0, allow_inf_nan=False), NoBool]
    """Prompt tokens."""
    cached_input: Annotated[float, Field(ge=0, allow_inf_nan=False), NoBool] | None = None
    """Prompt tokens that the endpoint had in its cache; default: as `input`."""
    output: Annotated[float, Field(ge=0, allow_inf_nan=False), NoBool]
    """Completion tokens."""


class Notify(Section):
    """Whom to tell how a run ended: the summary object is posted there, whatever became of the run."""

    url: Annotated[str, AfterValidator(_checked_webhook)]
    """An http(s) URL, such as `${WEBHOOK_URL}`; it is shown nowhere."""
    timeout_s: Annotated[float, Field(gt=0, le=600), NoBool] = 10
    """Seconds for it to answer; that it does not never changes how the run ends."""


def _with_url(value: Any) -> Any:
    """Return a section for its short form, which is the URL alone."""
    return {"url": value} if isinstance(value, str) else value


class Job(Section):
    """One job: a table in, a request for each row, the table with its answers out."""

    name: Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f]+$", max_length=200)] = "job"
    """Names the checkpoint; default: the job file's stem."""
    input: Input = Input()
    output: Output = Output()
    checkpoint: Checkpoint = Checkpoint()
    endpoint: Endpoint = Endpoint()
    request: Request
    limits: Limits = Limits()
    price: Price | None = None
    notify: Annotated[Notify, BeforeValidator(_with_url, json_schema_input_type=Notify | NonEmpty)] | None = None
