"""A text -> log probabilities in OpenAI's shape: made up, the same for the same text, and plausible.

What passes in is a text and how many alternatives each token gets; what comes out is the `logprobs` of a choice. Its
tokens are the pieces that a stream has, so that each piece can carry its own. It does not know replies.
"""

import zlib
from typing import Any

from batchchat.serve.tokens import pieces


def logprobs_of(text: str, top: int) -> dict[str, Any]:
    """Return the log probabilities of every token of a text, each with its `top` likeliest alternatives."""
    return {"content": [_entry(token, top) for token in pieces(text)], "refusal": None}


def _entry(token: str, top: int) -> dict[str, Any]:
    # From -0.5 to 0: the likeliest token, as what was chosen at a low temperature is.
    logprob = -round((zlib.crc32(token.encode()) % 5_000) / 10_000, 4)
    others = (_scored(f"{token}{'~' * rank}", logprob - 2.5 * rank) for rank in range(top))
    return {**_scored(token, logprob), "top_logprobs": list(others)}


def _scored(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": round(logprob, 4), "bytes": list(token.encode())}
