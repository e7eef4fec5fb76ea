"""What a model costs: whose word counts, and that nobody's silence, slowness or nonsense ends anything."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import genai_prices
import pytest

from batchchat.job.job import Job
from batchchat.prices import Prices, price_of
from batchchat.records import Price, Usage
from batchchat.send.budget.cost import cost_usd
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings
from tests.running import ROOT

KEY = "sk-test-0123456789"
PRICING = {"method": "token", "input_cost_per_token": 2e-6, "output_cost_per_token": "0.000008"}


def job(model: str = "gpt-4o-mini", price: dict[str, float] | None = None, **endpoint: Any) -> Job:
    """Return a job that asks a model at an endpoint."""
    request = {"model": model, "messages": [{"role": "user", "content": "?"}]}
    return Job.model_validate({"request": request, "endpoint": endpoint, "price": price})


class Listing:
    """A models API on this machine: what it answers to every path, and what it was asked."""

    def __init__(self, status: int, body: bytes, location: str | None = None, pause_s: float = 0.0) -> None:
        self.status, self.body, self.location, self.pause_s = status, body, location, pause_s
        self.asked: list[tuple[str, str | None]] = []
        self.base_url = ""


@contextmanager
def listing(status: int, answer: Any, location: str | None = None, pause_s: float = 0.0) -> Iterator[Listing]:
    """Serve an answer, as JSON where it is no bytes; with a pause, a byte at a time."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    found = Listing(status, body, location, pause_s)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers["authorization"]))
            self.send_response(found.status)
            if found.location is not None:
                self.send_header("location", found.location)
            self.send_header("content-length", str(len(found.body)))
            self.end_headers()
            pieces = [found.body[at : at + 1] for at in range(len(found.body))] if found.pause_s else [found.body]
            try:
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(found.pause_s)
            except OSError:
                pass  # nobody waits for it any more

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.base_url = f"http://127.0.0.1:{server.server_port}/api/ai"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def test_price_in_the_job_wins_and_nobody_is_asked() -> None:
    """What the job says holds, though the endpoint says otherwise."""
    with listing(200, {"pricing": PRICING}) as there:
        given = {"input": 3.0, "cached_input": 0.3, "output": 15.0}
        found = price_of(job(price=given, provider="oxen", base_url=there.base_url), KEY)
    assert found == Price(3.0, 15.0, 0.3, "price in the job", "gpt-4o-mini", is_given=True)
    assert there.asked == []


@pytest.mark.parametrize(("model", "path"), [("my-model", "my-model"), ("meta/llama 3", "meta%2Fllama%203")])
def test_oxen_is_asked_for_the_model_with_the_key(model: str, path: str) -> None:
    """Its price per token, number or text, is one per million; it is asked once, for that model."""
    with listing(200, {"id": model, "pricing": PRICING}) as there:
        found = price_of(job(model, provider="oxen", base_url=there.base_url), KEY)
    assert found is not None
    assert (found.input, found.output, found.cached_input) == pytest.approx((2.0, 8.0, None))
    assert (found.model, found.source) == (model, "Oxen's models API")
    assert there.asked == [(f"/api/ai/models/{path}", f"Bearer {KEY}")]


@pytest.mark.slow
def test_oxen_is_not_asked_without_a_key() -> None:
    """Without a key there is nothing to ask it with: what the model's own provider publishes counts."""
    with listing(200, {"pricing": PRICING}) as there:
        found = price_of(job(provider="oxen", base_url=there.base_url), None)
    assert there.asked == []
    assert found == price_of(job(provider="openai"), None)


def test_other_endpoints_are_not_asked() -> None:
    """Only Oxen has such an API: no key goes to a path that another endpoint does not know."""
    with listing(200, {"pricing": PRICING}) as there:
        assert price_of(job(base_url=there.base_url), KEY) is None
        assert price_of(job(base_url=there.base_url, provider="vllm"), KEY) is None
    assert there.asked == []


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, {"pricing": PRICING}),
        (401, {"error": {"type": "unauthenticated"}}),
        (404, {"error": {"message": "Model not found: my-model"}}),
        (200, b"<html>"),
        (200, b""),
        (200, []),
        (200, {"pricing": None}),
        (200, {"pricing": {**PRICING, "method": "time"}}),
        (200, {"pricing": {**PRICING, "input_cost_per_token": None}}),
        (200, {"pricing": {**PRICING, "input_cost_per_token": -1e-6}}),
        (200, {"pricing": {**PRICING, "output_cost_per_token": True}}),
        (200, {"pricing": {**PRICING, "output_cost_per_token": "nan"}}),
        (200, {"pricing": {**PRICING, "output_cost_per_token": "free"}}),
    ],
)
def test_no_sensible_answer_of_oxen_is_no_price(status: int, answer: Any) -> None:
    """A refusal, nonsense, or a model that is billed by the second has no price; nothing is raised."""
    with listing(status, answer) as there:
        assert price_of(job("my-model", provider="oxen", base_url=there.base_url), KEY) is None
    assert len(there.asked) == 1


def test_redirect_is_not_followed() -> None:
    """The key goes to the job's own host alone."""
    with (
        listing(200, {"pricing": PRICING}) as elsewhere,
        listing(302, b"", f"{elsewhere.base_url}/models/my-model") as there,
    ):
        assert price_of(job("my-model", provider="oxen", base_url=there.base_url), KEY) is None
    assert (len(there.asked), elsewhere.asked) == (1, [])


def test_nobody_there_is_no_price() -> None:
    """A port that nobody listens on takes no time and raises nothing."""
    with listing(200, b"") as there:
        pass
    assert price_of(job("my-model", provider="oxen", base_url=there.base_url), KEY) is None


@pytest.mark.slow
def test_embedded_endpoint_can_stand_in_for_oxen() -> None:
    """It says of every model that it costs nothing, in Oxen's words, for one and for all."""
    with EmbeddedEndpoint(ServeSettings(api_key=KEY)) as there:
        found = price_of(job("meta/llama-3.3-70b-instruct", provider="oxen", base_url=there.base_url), KEY)
        every = Prices(job("{{ model }}", provider="oxen", base_url=there.base_url), KEY)
        refused = price_of(job("my-model", provider="oxen", base_url=there.base_url), "another-key-0123")
    assert found == Price(0.0, 0.0, None, "Oxen's models API", "meta/llama-3.3-70b-instruct")
    assert every.of("stand-in") == Price(0.0, 0.0, None, "Oxen's models API", "stand-in")
    assert refused is None


def test_models_of_rows_are_priced_by_one_list() -> None:
    """Where rows name their model, all prices come at once; what is not listed has its published price, or none."""
    models = [{"id": "a", "pricing": PRICING}, {"id": "b", "pricing": {"method": "time"}}, "c", {"pricing": PRICING}]
    with listing(200, {"data": models}) as there:
        wanted = job("{{ model }}", provider="oxen", base_url=there.base_url)
        prices = Prices(wanted, KEY)
    assert [path for path, _ in there.asked] == ["/api/ai/models"]
    assert [prices.of(name) is not None for name in ("a", "b", "c", "claude-sonnet-4-6")] == [True, False, False, True]
    assert price_of(wanted, KEY) is None


def test_price_in_the_job_is_that_of_every_model() -> None:
    """A job that names its price and lets rows name models has that price for all of them."""
    wanted = job("{{ model }}", {"input": 1.0, "output": 2.0}, provider="local")
    given = Price(1.0, 2.0, None, "price in the job", is_given=True)
    assert price_of(wanted, None) == Prices(wanted, None).of("whatever") == given


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "endpoint", "provider"),
    [
        ("gpt-4o-mini", {"provider": "openai"}, "openai"),
        ("gpt-4o-mini", {"provider": "openai", "base_url": "http://127.0.0.1:1/v1"}, "openai"),
        ("llama-3.3-70b-versatile", {"provider": "groq"}, "groq"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", {"provider": "together"}, "together"),
        ("mistral-small-latest", {"provider": "mistral"}, "mistral"),
        ("openai/gpt-4o-mini", {"provider": "openrouter"}, "openrouter"),
        ("claude-sonnet-4-6", {}, "anthropic"),
        ("claude-sonnet-4-5", {"base_url": "https://api.anthropic.com/v1"}, "anthropic"),
        ("deepseek-chat", {"base_url": "https://api.deepseek.com"}, "deepseek"),
    ],
)
def test_published_price_costs_what_its_library_says(model: str, endpoint: dict[str, Any], provider: str) -> None:
    """Whatever is in a prompt, and however long it is, a reply costs what the library of prices makes of it."""
    price = price_of(job(model, **endpoint), None)
    assert price is not None
    assert "genai-prices" in price.source
    for prompt, cached, completion in [(1_000, 0, 500), (150_000, 100_000, 1), (200_000, 0, 7), (900_000, 10, 64_000)]:
        usage = genai_prices.Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
        expected = genai_prices.calc_price(usage, model, provider_id=provider).total_price
        found = cost_usd(price, Usage(prompt, completion, cached_tokens=cached))
        assert found == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("no-such-model", {"provider": "openai"}),
        ("gpt-4o-mini", {"base_url": "https://models.example.com/v1"}),
        ("sonar-pro", {"base_url": "https://api.perplexity.ai"}),  # a price per request too
    ],
)
def test_price_that_nobody_publishes_is_not_known(model: str, endpoint: dict[str, Any]) -> None:
    """An unknown model or host has no price, and nor has one that is billed by more than its tokens."""
    assert price_of(job(model, **endpoint), None) is None


@pytest.mark.slow
def test_own_machine_has_no_price_and_costs_no_import() -> None:
    """Published prices are not even loaded where none can be: that takes longer than all else at the start."""
    endpoints = [
        *({"provider": provider} for provider in ("local", "ollama", "vllm", "llamacpp")),
        *({"base_url": url} for url in ("http://localhost:1/v1", "http://[::1]:1/v1")),
    ]
    code = (
        "import sys\nfrom batchchat.job.job import Job\nfrom batchchat.prices import price_of\n"
        "request = {'model': 'gpt-4o-mini', 'messages': [{}]}\n"
        f"for endpoint in {endpoints!r}:\n"
        "    print(price_of(Job.model_validate({'request': request, 'endpoint': endpoint}), 'key'))\n"
        "print('genai_prices' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"] * len(endpoints) + ["False"]
