"""The running endpoint: keys, credits, limits, faults, the ledger, and how it starts and ends."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchchat.errors import UsageError
from batchchat.serve.faults import ANSWERED, UNANSWERED
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings

SCRIPT = """
from batchchat.serve.server import serve_forever
from batchchat.serve.settings import ServeSettings
print(serve_forever(ServeSettings(), 0, lambda url: print(url, flush=True)))
"""


def ask(base_url: str, number: int = 0, headers: httpx.Headers | None = None) -> httpx.Response:
    """Ask one endpoint for one completion, over a connection of its own."""
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"Ticket number {number}."}]}
    return httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, verify=False)


def ledger(path: Path) -> list[dict[str, Any]]:
    """Return the ledger's entries."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_key_is_asked_for() -> None:
    """With a key, only its bearer is answered, and what was sent instead is not echoed."""
    with EmbeddedEndpoint(ServeSettings(api_key="sésame")) as endpoint:
        wrong = ask(endpoint.base_url, headers=httpx.Headers({"authorization": "Bearer guessed-key"}))
        assert wrong.status_code == 401
        assert wrong.json() == {
            "error": {"type": "unauthenticated", "title": "You must be authenticated to perform this action."},
            "status": "error",
            "status_message": "unauthenticated",
        }
        assert ask(endpoint.base_url).status_code == 401
        for path in ("/models", "/models/gpt-5"):
            assert httpx.get(f"{endpoint.base_url}{path}", verify=False).json() == wrong.json()
        right = httpx.Headers([(b"authorization", "bearer sésame".encode())])
        assert ask(endpoint.base_url, headers=right).status_code == 200


def test_credits_run_out() -> None:
    """After as many answers as there are credits, every request is 402."""
    with EmbeddedEndpoint(ServeSettings(credits=2)) as endpoint:
        replies = [ask(endpoint.base_url, number) for number in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 402, 402]
    assert replies[-1].json() == {
        "error": {"type": "insufficient_credits", "title": "You have run out of credits."},
        "status": "error",
        "status_message": "insufficient_credits",
    }


def test_limit_says_when_to_come_again() -> None:
    """Past the requests a minute, 429 says in seconds when the next one fits."""
    with EmbeddedEndpoint(ServeSettings(requests_per_minute=2)) as endpoint:
        replies = [ask(endpoint.base_url, number) for number in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert 55 < float(replies[2].headers["retry-after"]) <= 60
    assert replies[2].json()["error"]["type"] == "rate_limit_exceeded"


def test_request_over_the_whole_limit_is_refused() -> None:
    """A request that needs more tokens than a minute has is 400: no wait would help it."""
    with EmbeddedEndpoint(ServeSettings(tokens_per_minute=5)) as endpoint:
        reply = ask(endpoint.base_url)
    assert reply.status_code == 400
    assert "the limit a minute is 5" in reply.json()["error"]["detail"]


def outcome(base_url: str, number: int) -> str:
    """Return what came of one request, as a client sees it."""
    try:
        reply = ask(base_url, number)
    except httpx.RemoteProtocolError as error:
        return "cut" if "incomplete" in str(error) or "without sending complete" in str(error) else "closed"
    try:
        is_answer = "choices" in reply.json()
    except ValueError:
        return f"{reply.status_code} no JSON"
    return "answered" if is_answer else f"{reply.status_code} JSON"


@pytest.mark.slow
def test_every_fault_happens_and_is_logged(tmp_path: Path) -> None:
    """Each kind of fault reaches the client as what it is, and the ledger has it by name."""
    log = tmp_path / "ledger.jsonl"
    with EmbeddedEndpoint(ServeSettings(fault_rate=1, log_path=log)) as endpoint:
        seen = Counter(outcome(endpoint.base_url, number) for number in range(120))
    entries = ledger(log)
    counted = Counter(entry["fault"] for entry in entries)
    assert set(counted) == {*UNANSWERED, *ANSWERED}
    assert seen["cut"] == counted["cut_body"]
    assert seen["closed"] == counted["closed_before_reply"]
    assert seen["answered"] == counted["slow"] == sum(entry["delivered"] for entry in entries)
    assert seen["200 no JSON"] == counted["truncated_json"] + counted["empty_body"]
    assert seen["502 no JSON"] == counted["bad_gateway"]
    assert all((entry["response_id"] is not None) == (entry["fault"] in ANSWERED) for entry in entries)


@pytest.mark.slow
def test_persistent_client_gets_through() -> None:
    """One request suffers at most three faults in a row, even when every request shall suffer one."""
    with EmbeddedEndpoint(ServeSettings(fault_rate=1, seed=5)) as endpoint:
        for number in range(10):
            outcomes = [outcome(endpoint.base_url, number) for _ in range(4)]
            assert outcomes[3] == "answered"


def test_ledger_has_every_answer(tmp_path: Path) -> None:
    """The ledger has the id and usage of an answer as soon as the client has the answer."""
    log = tmp_path / "ledger.jsonl"
    with EmbeddedEndpoint(ServeSettings(log_path=log)) as endpoint:
        reply = ask(endpoint.base_url).json()
        (entry,) = ledger(log)
    assert entry["response_id"] == reply["id"]
    assert entry["prompt_tokens"] == reply["usage"]["prompt_tokens"]
    assert (entry["status"], entry["fault"], entry["delivered"]) == (200, None, True)


@pytest.mark.slow
def test_port_answers_as_soon_as_entered() -> None:
    """The port is bound when the block is entered, free again when it is left, and no thread stays behind."""
    threads = threading.active_count()
    with EmbeddedEndpoint(ServeSettings()) as endpoint:
        assert ask(endpoint.base_url).status_code == 200
        port = int(endpoint.base_url.split(":")[2].split("/")[0])
    assert threading.active_count() == threads
    with EmbeddedEndpoint(ServeSettings(), port) as again:
        assert again.base_url == endpoint.base_url
        assert ask(again.base_url).status_code == 200


def test_used_port_is_a_usage_error() -> None:
    """A port that is taken is told at once, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UsageError, match=f"port {port} on 127.0.0.1 cannot be used"),
            EmbeddedEndpoint(ServeSettings(), port),
        ):
            pass


def test_unwritable_ledger_is_a_usage_error(tmp_path: Path) -> None:
    """A ledger in a folder that is not there is told before anything is served."""
    settings = ServeSettings(log_path=tmp_path / "none" / "ledger.jsonl")
    with pytest.raises(UsageError, match=r"ledger\.jsonl cannot be written"), EmbeddedEndpoint(settings):
        pass


@pytest.mark.slow
def test_nothing_is_logged_or_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Neither requests nor faults write to the terminal or to the program's log."""
    caplog.set_level(logging.DEBUG)
    with EmbeddedEndpoint(ServeSettings(fault_rate=1, seed=1)) as endpoint:
        for number in range(20):
            outcome(endpoint.base_url, number)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith(("uvicorn", "asyncio"))]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """SIGINT and SIGTERM end `serve_forever`, which returns the signal; nothing is on stderr."""
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert ask(process.stdout.readline().strip()).status_code == 200
        process.send_signal(number)
        assert process.communicate(timeout=300) == (f"{number.value}\n", "")
        assert process.returncode == 0
