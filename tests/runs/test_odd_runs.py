"""Every odd reply of `tests/odd_replies`, through whole jobs: none costs an answered row."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchchat
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.odd_replies import ODDITIES, respond
from tests.running import Ended, write_job
from tests.running import batchchat as command

ENDS_THE_JOB = {
    "status-401": 401,
    "status-402": 402,
    "status-403": 403,
    "status-404": 404,
    "model-not-found": 404,
    "no-quota": 429,
    "budget-exceeded": 429,
}
"""The oddities that refuse the whole job, and their HTTP status."""
WAITS = {"status-429", "error-array", "credits-in-flight", "status-503", "status-529", "loading-model"}
"""Limits, busy servers that name a time, and one that is not ready: the whole run waits for them and asks again."""

FAILS = {
    **dict.fromkeys(("null-content", "empty-choices", "null-choices", "no-choices", "no-message"), "empty_reply"),
    **dict.fromkeys(("null-message", "error-null", "nested-reply"), "empty_reply"),
    **dict.fromkeys(("finish-error", "finish-abort", "error-in-200", "error-in-choice"), "server"),
    **dict.fromkeys(("html-200", "empty-body", "not-json"), "protocol"),
    **dict.fromkeys(("cut-connection", "closed-connection"), "connect"),
    **dict.fromkeys(("status-400", "status-422", "error-detail", "error-top-level"), "bad_request"),
    **dict.fromkeys(("status-500", "status-502", "tool-use-failed", "error-string", "error-anthropic"), "server"),
    **dict.fromkeys(("html-403", "html-502"), "server"),
    "unsupported-parameter": "bad_request",
    "context-length": "context_length",
    "prompt-filter": "content_filter",
    "status-408": "timeout",
    "status-413": "too_large",
}
FAILS_STREAMED = {
    **FAILS,
    **dict.fromkeys(("error-event", "error-data", "pretty-error", "plain-error"), "server"),
    "cut-stream": "connect",
    "empty-body": "connect",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}
WITHOUT_CALLS = {"thought-only", "refusal"}
"""Odd replies that say something else, even where a tool must be called."""


def run_oddities(names: list[str], folder: Path, **request: Any) -> dict[str, dict[str, Any]]:
    """Ask for each oddity in a row of its own; return the rows by the oddity's name."""
    rows = pl.DataFrame({"name": ["none", *names], "asked": ["stand-in", *(f"odd/{name}" for name in names)]})
    message = {"role": "user", "content": "Hello there, how is the weather in Paris?"}
    with EmbeddedEndpoint(ServeSettings(), respond=respond) as endpoint:
        job = {
            "endpoint": {"base_url": endpoint.base_url},
            "limits": {"max_attempts": 1},
            "checkpoint": {"path": str(folder / "answers.sqlite")},
            "request": {"model": "{{ asked }}", "messages": [message], **request},
        }
        frame = batchchat.run(job, frame=rows)
    return {row["name"]: row for row in frame.iter_rows(named=True)}


def run_odd_job(folder: Path, **changes: Any) -> Ended:
    """Run a job over `rows.csv` in a process of its own, through an endpoint that replies oddly."""
    with EmbeddedEndpoint(ServeSettings(), respond=respond) as endpoint:
        return command("run", write_job(folder, endpoint={"base_url": endpoint.base_url}, **changes), "--json")


@pytest.mark.slow
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["text", "tools"])
def test_every_oddity_ends_as_it_should(tools: list[Any], is_streamed: bool, tmp_path: Path) -> None:
    """A row that has an answer keeps it, however it came; every other has its kind of failure."""
    names = [name for name in ODDITIES if name not in {*ENDS_THE_JOB, *WAITS}]
    request: dict[str, Any] = {"tools": tools, "tool_choice": "required"} if tools else {}
    rows = run_oddities(names, tmp_path, stream=is_streamed, **request)
    expected = FAILS_STREAMED if is_streamed else FAILS
    assert {name: row["error_kind"] for name, row in rows.items()} == {
        "none": None,
        **{name: expected.get(name) for name in names},
    }
    for name, row in rows.items():
        if row["error_kind"] is None and tools and name not in WITHOUT_CALLS:
            assert row["tool_calls"], name
        elif row["error_kind"] is None:
            assert row["completion"] is not None or row["refusal"] or row["reasoning"] or row["tool_calls"], name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), ENDS_THE_JOB.items())
def test_refusal_of_the_job_ends_it(name: str, status: int, tmp_path: Path) -> None:
    """What no row can help ends the run with exit code 4, and no row is blamed."""
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n2,b\n")
    request = {"model": f"odd/{name}", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]}
    ended = run_odd_job(tmp_path, request=request)
    assert (ended.code, ended.summary["rows_failed"], ended.summary["outcome"]) == (4, 0, "refused")
    assert ended.summary["reason"].startswith(f"the endpoint refuses the job ({status}): ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["credits-in-flight", "loading-model", "status-503"])
def test_wait_that_is_in_vain_ends_the_job(name: str, tmp_path: Path) -> None:
    """A limit that does not lift, and a server that is never ready, end the run at `max_outage`; no row is blamed."""
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n2,b\n")
    request = {"model": f"odd/{name}", "messages": [{"role": "user", "content": "Repeat: {{ text }}"}]}
    limits = {"max_outage": "1s", "max_attempts": 1}
    ended = run_odd_job(tmp_path, request=request, limits=limits)
    assert (ended.code, ended.summary["rows_failed"], ended.summary["outcome"]) == (4, 0, "refused")


SCHEMA = {"mood": ["angry", "calm"], "urgent": "boolean"}


PAID_TWICE = ("wrong-json", "length-once")


@pytest.mark.parametrize(
    "name",
    ["fenced-json", "prose-json", "truncated-json", "think-tags", *PAID_TWICE, "no-json-schema", "no-response-format"],
)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_answer_that_does_not_fit_at_first_is_made_to(name: str, is_streamed: bool, tmp_path: Path) -> None:
    """What can be mended is, for nothing; the rest is asked once more, and both replies are in the row's usage."""
    rows = run_oddities([name], tmp_path, response_schema=SCHEMA, max_tokens=400, stream=is_streamed)
    row = rows[name]
    assert row["error"] is None
    assert row["parsed"]["mood"] in ("angry", "calm")
    assert isinstance(row["parsed"]["urgent"], bool)
    assert row["attempts"] == (2 if name in PAID_TWICE else 1)
    assert (row["total_tokens"] > 1.5 * rows["none"]["total_tokens"]) == (name in PAID_TWICE)


def test_answer_that_never_fits_fails_with_its_text(tmp_path: Path) -> None:
    """After one correction the row is given up; what the model said, and what it cost, stays."""
    row = run_oddities(["always-wrong-json"], tmp_path, response_schema=SCHEMA)["always-wrong-json"]
    assert (row["error_kind"], row["error_status"], row["attempts"], row["parsed"]) == ("schema", 200, 2, None)
    assert row["completion"]
    assert row["error"].startswith("the answer does not fit the schema: ")
    assert row["total_tokens"] > 0
    assert row["finish_reason"] == "stop"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-json-schema", "does not take response_format json_schema"),
        ("no-response-format", "takes no response_format"),
    ],
)
def test_endpoint_without_schemas_is_found_out_once_and_said(name: str, words: str, tmp_path: Path) -> None:
    """The first refusals decide for the run; every row is answered, and the summary says how."""
    (tmp_path / "rows.csv").write_text("id,text\n" + "".join(f"{number},text {number}\n" for number in range(60)))
    request = {
        "model": f"odd/{name}",
        "messages": [{"role": "user", "content": "Repeat: {{ text }}"}],
        "response_schema": SCHEMA,
    }
    ended = run_odd_job(tmp_path, request=request, limits={"concurrency": 4})
    assert (ended.code, ended.summary["rows_answered"]) == (0, 60)
    assert ended.summary["requests_sent"] <= 60 + 2 * 4
    assert [note for note in ended.summary["notes"] if words in note]
    assert words in ended.stderr
    assert pl.read_parquet(tmp_path / "out.parquet")["parsed"].null_count() == 0
