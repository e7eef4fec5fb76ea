"""Count tokens as a plausible tokenizer would: one for every four bytes of UTF-8.

Four bytes are about four letters of English, two of Cyrillic, and one and a third of Japanese, which is near what real
tokenizers make of these.
"""

import re
import zlib
from typing import Any

BYTES_PER_TOKEN = 4
_PIECE = re.compile(r"\s*\S{1,24}|\s+")


def token_count(text: str) -> int:
    """Return the tokens of a text; none for an empty one."""
    # A text that is ASCII has as many bytes as characters, so that a prompt of megabytes need not be copied.
    size_bytes = len(text) if text.isascii() else len(text.encode())
    return -(-size_bytes // BYTES_PER_TOKEN)


def cut_to_tokens(text: str, limit: int) -> str:
    """Return the text when it has at most `limit` tokens, else its longest start of whole words that has."""
    if token_count(text) <= limit:
        return text
    encoded = text.encode()
    start = encoded[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
    if text[len(start)].isspace():
        return start.rstrip()
    # A script without spaces, or one word longer than the limit, has no word's end to cut at.
    return (start.rsplit(None, 1)[0] if len(start.split(None, 1)) > 1 else start).rstrip()


def pieces(text: str) -> list[str]:
    """Return the text in the pieces in which it is streamed: words with the space before them, long ones in several."""
    return _PIECE.findall(text)


def logprobs_of(text: str, top: int) -> dict[str, Any]:
    """Return made-up log probabilities of a text's pieces, in OpenAI's shape, each with `top` alternatives."""
    return {"content": [_entry(token, top) for token in pieces(text)], "refusal": None}


def _entry(token: str, top: int) -> dict[str, Any]:
    # From -0.5 to 0: the likeliest token, as what was chosen at a low temperature is.
    logprob = -round((zlib.crc32(token.encode()) % 5_000) / 10_000, 4)
    others = [_scored(f"{token}{'~' * rank}", logprob - 2.5 * rank) for rank in range(top)]
    return {**_scored(token, logprob), "top_logprobs": others}


def _scored(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": round(logprob, 4), "bytes": list(token.encode())}
