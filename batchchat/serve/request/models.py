"""Name the models that the embedded endpoint answers to: all but the missing ones, each the same stand-in."""

from typing import Any

_MODELS = {
    "claude-sonnet-4-6": "anthropic",
    "claude-haiku-4-5": "anthropic",
    "gpt-5-mini": "openai",
    "gpt-4o-mini": "openai",
    "gemini-3-flash-preview": "google",
    "meta/llama-3.3-70b-instruct": "meta",
    "mistral-small-latest": "mistral",
    "qwen3-235b-a22b": "qwen",
    "kimi-k3": "moonshot",
    "deepseek-v3.2": "deepseek",
    "stand-in": "batchchat",
}
# What somebody writes to see what happens when a model is not there.
_MISSING = ("no-such", "nonexist")


def is_known_model(name: str) -> bool:
    """Tell whether a model of this name is answered for."""
    return not any(part in name.casefold() for part in _MISSING)


def model_object(name: str, created: int) -> dict[str, Any]:
    """Return what Oxen's models API says of a model, with the fields that OpenAI's has."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": _MODELS.get(name, "batchchat"),
        "endpoint": "/chat/completions",
        "capabilities": {"input": ["text", "image", "video"], "output": ["text"]},
        "pricing": {"method": "token", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "model_type": "base",
        "deployments": [],
    }


def model_list(created: int, developer: str = "", search: str = "") -> dict[str, Any]:
    """Return the list of the models, of one developer, or with these letters in their names."""
    named = [name for name, owner in _MODELS.items() if developer in ("", owner) and search.casefold() in name]
    return {"object": "list", "data": [model_object(name, created) for name in named]}
