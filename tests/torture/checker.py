"""Input, ledger and output held against one another: what was lost, doubled, crossed, wrong, or paid for twice."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tests.torture.answers import Said, digest_of_text, said
from tests.torture.ledger import ANSWER, GONE, Entry

OWN_COLUMNS = ("latency_s", "first_token_s", "attempts", "response_id")
"""Columns that say how the asking went: two runs with the same answers may differ in them, and in no other."""


@dataclass(frozen=True)
class Checked:
    """What is wrong with an output.

    `lost` rows have neither an answer nor a failure, or are missing; `doubled` ones are there more often than in the
    input; `crossed` ones have the answer of another row, `wrong` ones one that nobody gave.
    """

    rows: int
    failed: int
    lost: int
    doubled: int
    crossed: int
    wrong: int

    @property
    def harm(self) -> tuple[int, int, int, int]:
        """Return all that must be zero."""
        return self.lost, self.doubled, self.crossed, self.wrong


def check_output(input_path: Path, output_path: Path) -> Checked:
    """Hold an output against its input, row by row, and against what the server says to each."""
    table = pl.read_parquet(output_path)
    texts = pl.read_csv(input_path)["text"].to_list()
    digests = [digest_of_text(text) for text in texts]
    owners = {answer_of(said(digest)): digest for digest in digests}
    found: Counter[str] = Counter()
    for row in table.iter_rows(named=True):
        found[_verdict(row, digest_of_text(row["text"]), owners)] += 1
    copies = Counter(table["text"])
    is_in_order = table["text"].to_list() == texts
    return Checked(
        rows=len(texts),
        failed=found["failed"],
        lost=found["lost"] + sum(text not in copies for text in texts),
        doubled=sum(count - 1 for count in copies.values()),
        crossed=found["crossed"] + (not is_in_order),
        wrong=found["wrong"],
    )


def answer_of(answer: Said) -> tuple[Any, ...]:
    """Return what an output's row holds of an answer."""
    return (answer.completion, answer.arguments, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens)


def row_answer(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the same of an output's row."""
    calls = row["tool_calls"] or [{"arguments": None}]
    return (
        row["completion"],
        calls[0]["arguments"],
        row["finish_reason"],
        row["prompt_tokens"],
        row["completion_tokens"],
    )


def _verdict(row: dict[str, Any], digest: str, owners: dict[tuple[Any, ...], str]) -> str:
    expected = said(digest)
    given = row_answer(row)
    if given == answer_of(expected) and row["model"] == expected.model and row["error_kind"] is None:
        return "right"
    if row["completion"] is None and row["tool_calls"] is None:
        return "failed" if row["error_kind"] is not None else "lost"
    return "crossed" if given in owners else "wrong"


def same_answers(first: Path, second: Path) -> bool:
    """Whether two outputs are equal in every column but those of `OWN_COLUMNS`."""
    tables = [pl.read_parquet(path).drop(OWN_COLUMNS) for path in (first, second)]
    return tables[0].equals(tables[1])


def paid_again(entries: Iterable[Entry]) -> list[Entry]:
    """Return the whole answers that were delivered for a request although a later one was, in order of arrival."""
    delivered: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.is_delivered:
            delivered[entry.digest].append(entry)
    again = [entry for one in delivered.values() for entry in sorted(one, key=lambda entry: entry.arrived)[:-1]]
    return sorted(again, key=lambda entry: entry.arrived)


def lost_by_kills(entries: Sequence[Entry], killed_at: Sequence[float]) -> list[int]:
    """Return, for each kill, how many requests were billed and never stored because of it.

    Those are the answers that were delivered and had to be delivered again, and those that found nobody to take them.
    What the server billed and then cut itself is no kill's doing.
    """
    lost = [0] * len(killed_at)
    gone = [entry for entry in entries if entry.sent == GONE and entry.is_billed]
    for entry in [*paid_again(entries), *gone]:
        kill = bisect.bisect_left(killed_at, entry.arrived)
        if kill < len(lost):
            lost[kill] += 1
    return lost


def not_by_kills(entries: Sequence[Entry], killed_at: Sequence[float]) -> int:
    """Return how many answers were paid for again that no kill explains: they arrived after the last one."""
    return sum(entry.arrived > killed_at[-1] for entry in paid_again(entries))


def arrivals_by_text(entries: Iterable[Entry]) -> Counter[str]:
    """Return how often each request arrived, by its digest."""
    return Counter(entry.digest for entry in entries)


def answers_delivered(entries: Iterable[Entry]) -> Counter[str]:
    """Return how often a whole answer to each request was delivered, by its digest."""
    return Counter(entry.digest for entry in entries if entry.sent == ANSWER)
