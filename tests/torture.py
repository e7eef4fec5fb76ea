"""Kill a run at random moments, let it go on, and hold its output against what the endpoint says it answered.

`make torture` runs it at full size and prints the figures; `test_kills.py` and `test_memory.py` run it small.
"""

import base64
import csv
import hashlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

BATCHCHAT = [sys.executable, "-m", "batchchat"]
WORDS = ["refund", "parcel", "crash", "password", "invoice", "delivery", "error", "login", "hello", "question"]
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
PICTURES_JOB = """
name: pictures
input: {{path: rows.csv, id: id}}
output: {{path: out.parquet}}
endpoint: {{base_url: "{base_url}", name: stand-in}}
limits: {{concurrency: {concurrency}, in_flight_bytes: {in_flight_bytes}}}
request:
  model: stand-in
  messages:
    - role: user
      content:
        - {{type: image_url, image_url: {{url: "pictures/{{{{ id }}}}.png"}}}}
        - {{type: text, text: "What is this?"}}
"""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Figures:
    """What a series of kills did: rows `lost` and `crossed`, answers `asked_twice` and the bound that runs reported."""

    rows: int
    kills: int
    lost: int
    crossed: int
    asked_twice: int
    in_flight_bound: int
    seconds: float


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


def kill_and_resume(folder: Path, *, rows: int, kills: int, concurrency: int, longest_s: float) -> Figures:
    """Run a job over a faulty endpoint, kill it `kills` times at random moments, finish it, and check every row."""
    started_at = time.monotonic()
    chance = random.Random(rows + kills)
    write_rows(folder / "rows.csv", rows)
    bound = 0
    with endpoint(folder, "--fault-rate", "0.2", "--latency", "0.02") as base_url:
        job = write_job(folder, base_url, concurrency)
        for _ in range(kills):
            with subprocess.Popen([*BATCHCHAT, "run", str(job), "--quiet"]) as process:
                try:
                    process.wait(chance.uniform(0.6, longest_s))
                except subprocess.TimeoutExpired:
                    process.kill()
            bound += in_flight_bound(job)
        finished = subprocess.run([*BATCHCHAT, "run", str(job), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout)["rows_answered"] == rows
    answered = ledger(folder)
    lost, crossed = compare(folder / "out.parquet", answered)
    asked_twice = sum(len(ids) - 1 for ids in answered.values())
    return Figures(rows, kills, lost, crossed, asked_twice, bound, time.monotonic() - started_at)


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


def peak_memory_mb(folder: Path, *, rows: int, concurrency: int) -> float:
    """Return the peak resident memory of one run over `rows` rows of 1 KB each, in MB."""
    write_rows(folder / "rows.csv", rows, extra_bytes=850)
    with endpoint(folder) as base_url:
        return _peak_memory_mb(write_job(folder, base_url, concurrency))


def peak_memory_with_pictures_mb(folder: Path, *, rows: int, concurrency: int, in_flight_bytes: int) -> float:
    """Return the peak resident memory of one run over `rows` pictures of 1 MB each, in MB; all must be answered."""
    write_rows(folder / "rows.csv", rows)
    (folder / "pictures").mkdir()
    chance = random.Random(rows)
    for number in range(rows):
        (folder / "pictures" / f"{number}.png").write_bytes(PICTURE + chance.randbytes(2**20))
    with endpoint(folder, "--latency", "0.2") as base_url:
        job = folder / "job.yaml"
        filled = PICTURES_JOB.format(base_url=base_url, concurrency=concurrency, in_flight_bytes=in_flight_bytes)
        job.write_text(filled)
        peak = _peak_memory_mb(job)
    assert pl.read_parquet(folder / "out.parquet")["completion"].str.contains("image/png").all()
    return peak


def _peak_memory_mb(job: Path) -> float:
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", code, *BATCHCHAT, "run", str(job), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout) * unit / 2**20


def main() -> None:
    """Print the figures at full size."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _say(kill_and_resume(Path(folder), rows=5_000, kills=5, concurrency=32, longest_s=5.0))
    peaks = {}
    for rows in (20_000, 200_000):
        with tempfile.TemporaryDirectory() as folder:
            peaks[rows] = peak_memory_mb(Path(folder), rows=rows, concurrency=64)
        _say(f"{rows:,} rows: peak memory {peaks[rows]:.0f} MB")
    _say(f"ratio {peaks[200_000] / peaks[20_000]:.2f}")
    for megabytes in (16, 64, 256):
        with tempfile.TemporaryDirectory() as folder:
            peak = peak_memory_with_pictures_mb(
                Path(folder), rows=2_000, concurrency=64, in_flight_bytes=megabytes * 2**20
            )
        _say(f"2,000 pictures of 1 MB, in_flight_bytes {megabytes} MB: peak memory {peak:.0f} MB")


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
