"""The `saturate` package: its `pump` with a fixed window, in parts of 500 rows: faster than its default of 10."""

from typing import Any

from saturate import Fixed, pump

from tests.bench.asking import check_complete, given_task, read_rows, request_of

FLUSH_ROWS = 500


def _answer(reply: dict[str, Any]) -> dict[str, Any]:
    return {"completion": reply["choices"][0]["message"]["content"], **reply["usage"]}


def main() -> None:
    """Ask about all rows."""
    task = given_task()
    stats = pump(
        read_rows(task.rows),
        to_request=request_of,
        parse=_answer,
        endpoint=task.base_url,
        output=str(task.folder / "answers"),
        window=Fixed(task.concurrency),
        flush_every=FLUSH_ROWS,
        id_key="id",
    )
    check_complete(stats.rows_processed, task)


if __name__ == "__main__":
    main()
