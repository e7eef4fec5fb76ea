"""`AsyncOpenAI` with a semaphore and `asyncio.gather`, as its users write it; the variant `aiohttp` takes its extra.

All answers are in memory until the end, and then written as Parquet.
"""

import asyncio
from typing import Any

from openai import AsyncOpenAI, DefaultAioHttpClient

from tests.bench.asking import MAX_TOKENS, MODEL, Task, check_complete, given_task, read_rows, write_answers


async def ask_all(task: Task, rows: list[dict[str, Any]]) -> list[str | None]:
    """Return the answers in the order of the rows."""
    client = AsyncOpenAI(
        base_url=task.base_url,
        api_key="none",
        http_client=DefaultAioHttpClient() if task.variant == "aiohttp" else None,
    )
    slots = asyncio.Semaphore(task.concurrency)

    async def ask(row: dict[str, Any]) -> str | None:
        async with slots:
            reply = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": row["text"]}], max_tokens=MAX_TOKENS
            )
            return reply.choices[0].message.content

    async with client:
        return await asyncio.gather(*(ask(row) for row in rows))


def main() -> None:
    """Ask about all rows."""
    task = given_task()
    rows = list(read_rows(task.rows))
    completions = [text for text in asyncio.run(ask_all(task, rows)) if text]
    check_complete(len(completions), task)
    write_answers(task.folder / "answers.parquet", rows, completions)


if __name__ == "__main__":
    main()
