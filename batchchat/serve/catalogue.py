"""The model names that the embedded endpoint answers to, and what it says of each.

What passes in is a name as a request has it; what comes out is whether Oxen might serve it, or an object that describes
it. Every name gets the same stand-in, which can do the same and costs nothing. It does not know requests.
"""

from collections.abc import Sequence
from typing import Any

from batchchat.serve.oddity import MODEL_PREFIX

MODEL_IDS = (
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
    "gpt-5-mini",
    "gpt-4o-mini",
    "gemini-3-flash-preview",
    "meta/llama-3.3-70b-instruct",
    "mistral-small-latest",
    "qwen3-235b-a22b",
    "kimi-k3",
    "deepseek-v3.2",
    "stand-in",
)

_DEVELOPERS = {
    "claude": "anthropic",
    "gpt": "openai",
    "gemini": "google",
    "llama": "meta",
    "mistral": "mistral",
    "qwen": "qwen",
    "kimi": "moonshot",
    "deepseek": "deepseek",
}
_FAMILIES = tuple(
    """
    claude gpt chatgpt o1 o3 o4 gemini gemma llama meta-llama qwen qwq mistral mixtral ministral codestral devstral
    magistral pixtral kimi moonshot deepseek glm grok sonar phi command nova granite nemotron yi smollm olmo minimax
    stand-in local test demo echo mock small tiny default my-
    """.split()  # noqa: SIM905 - a list of fifty quoted strings is no easier to read
)
# Names that somebody writes to see what happens when a model is not there, whatever family they begin with.
_NOT_THERE = tuple(
    "no-such not-a nonexist non-exist does-not unknown missing nope invalid bogus wrong typo".split()  # noqa: SIM905
)


def is_known_model(name: str) -> bool:
    """Tell whether a model of this name exists: by the family its last part begins with."""
    if name.startswith(MODEL_PREFIX):
        return True
    folded = name.casefold()
    if any(part in folded.replace("_", "-") for part in _NOT_THERE):
        return False
    return folded in MODEL_IDS or folded.rsplit("/", 1)[-1].startswith(_FAMILIES)


def model_object(name: str, created: int) -> dict[str, Any]:
    """Return what Oxen's models API says of a model, with the fields that OpenAI's has."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": _developer(name),
        "endpoint": "/chat/completions",
        "capabilities": {"input": ["text", "image", "video", "audio", "file"], "output": ["text"]},
        "pricing": {"method": "token", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "model_type": "base",
        "deployments": [],
    }


def model_list(names: Sequence[str], created: int) -> dict[str, Any]:
    """Return the list of these models."""
    return {"object": "list", "data": [model_object(name, created) for name in names]}


def named_models(developer: str = "", search: str = "") -> list[str]:
    """Return the names of the listed models, of one developer, or with these letters in them."""
    return [name for name in MODEL_IDS if developer in ("", _developer(name)) and search.casefold() in name]


def _developer(name: str) -> str:
    last = name.casefold().rsplit("/", 1)[-1]
    return next((developer for family, developer in _DEVELOPERS.items() if last.startswith(family)), "batchchat")
