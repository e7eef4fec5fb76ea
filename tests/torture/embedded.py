"""Runs over the embedded endpoint: rows, a job, the endpoint's own ledger, and an output held against it."""

import csv
import hashlib
import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from tests.running import BATCHCHAT
from tests.torture.stage import WORDS

JOB = """
name: torture
input: {{path: rows.csv, id: id}}
output: {{path: out.parquet}}
endpoint: {{base_url: "{base_url}", name: stand-in}}
limits: {{concurrency: {concurrency}}}
request:
  model: stand-in
  messages: [{{role: user, content: "Repeat: {{{{ text }}}}"}}]
"""


@contextmanager
def endpoint(folder: Path, *options: str) -> Iterator[str]:
    """Serve the embedded endpoint in a process of its own, with its ledger in `ledger.jsonl`."""
    command = [*BATCHCHAT, "serve", "--port", "0", "--log", str(folder / "ledger.jsonl"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def write_rows(path: Path, count: int, *, extra_bytes: int = 0) -> None:
    """Write a CSV of `count` different rows."""
    chance = random.Random(count)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in range(count):
            text = " ".join(chance.choices(WORDS, k=12 + extra_bytes // 8))
            writer.writerow([number, f"row {number} {text}"])


def write_job(folder: Path, base_url: str, concurrency: int | str) -> Path:
    """Write the job over `rows.csv`."""
    path = folder / "job.yaml"
    path.write_text(JOB.format(base_url=base_url, concurrency=concurrency))
    return path


def in_flight_bound(job: Path) -> int:
    """Return how many requests a killed run says may have been in flight; none if it was killed before its start."""
    done = subprocess.run([*BATCHCHAT, "status", str(job), "--json"], capture_output=True, text=True, check=False)
    run = json.loads(done.stdout)["run"] if done.returncode == 0 else None
    return int(run["progress"]["in_flight_bound"]) if run else 0


def ledger(folder: Path) -> dict[str, list[str]]:
    """Return the ids of the whole answers that the endpoint sent, by the digest of the request."""
    answered: dict[str, list[str]] = {}
    for line in (folder / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["delivered"] and entry["status"] == 200:
            answered.setdefault(entry["request_sha256"], []).append(entry["response_id"])
    return answered


def compare(output: Path, answered: dict[str, list[str]]) -> tuple[int, int]:
    """Return how many rows of an output have no answer, and how many have another than the endpoint gave to them."""
    table = pl.read_parquet(output)
    found: Counter[str] = Counter()
    for text, response_id, completion in table.select("text", "response_id", "completion").iter_rows():
        ids = answered.get(_digest(text), [])
        found["lost"] += completion is None
        found["crossed"] += response_id not in ids or text.split()[1] not in completion
    return found["lost"], found["crossed"]


def _digest(text: str) -> str:
    body = {"model": "stand-in", "messages": [{"role": "user", "content": f"Repeat: {text}"}]}
    return hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()
