"""`batchchat.run(job, transport=...)`: an httpx transport of one's own in place of the connections."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import polars as pl
import pytest

import batchchat

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "{{ text }}"}]}


def job(folder: Path, **limits: object) -> dict[str, object]:
    """Return a job of which only the transport is missing."""
    return {
        "checkpoint": {"path": str(folder / "c.sqlite")},
        "endpoint": {"base_url": "https://nobody.test/v1"},
        "request": REQUEST,
        "limits": limits,
    }


def reply(request: httpx.Request) -> httpx.Response:
    """Answer with the text itself, the other way round."""
    text = json.loads(request.content)["messages"][0]["content"]
    message = {"role": "assistant", "content": text[::-1]}
    return httpx.Response(200, json={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def test_mock_takes_the_place_of_the_connections(tmp_path: Path) -> None:
    """The mock of httpx sees every request as it would be sent, and its answers are the frame's."""
    seen: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return reply(request)

    rows = pl.DataFrame({"text": [f"row {number}" for number in range(50)]})
    frame = batchchat.run(job(tmp_path), rows, transport=httpx.MockTransport(keep))
    assert frame["completion"].to_list() == [text[::-1] for text in rows["text"]]
    assert {str(request.url) for request in seen} == {"https://nobody.test/v1/chat/completions"}
    assert all(request.headers["content-length"] == str(len(request.content)) for request in seen)


@pytest.mark.slow
@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout, httpx.DecodingError])
def test_httpxs_errors_are_failures_of_the_way(tmp_path: Path, error: type[httpx.RequestError]) -> None:
    """What a transport raises counts as what it is: asked again, and answered."""
    failed: list[bytes] = []

    def fail_once(request: httpx.Request) -> httpx.Response:
        if request.content not in failed and len(failed) < 2:
            failed.append(request.content)
            raise error("as it happens")
        return reply(request)

    rows = pl.DataFrame({"text": ["ab", "cd", "ef"]})
    frame = batchchat.run(job(tmp_path), rows, transport=httpx.MockTransport(fail_once))
    assert sorted(frame["completion"].to_list()) == ["ba", "dc", "fe"]


def test_time_limits_hold_for_any_transport(tmp_path: Path) -> None:
    """A transport that never answers is given up in time."""

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            """Wait for ever."""
            await asyncio.Event().wait()
            raise AssertionError

    rows = pl.DataFrame({"text": ["ab"]})
    frame = batchchat.run(job(tmp_path, timeout_s=0.2, max_attempts=1), rows, transport=Silent())
    assert frame["error_kind"].to_list() == ["timeout"]
