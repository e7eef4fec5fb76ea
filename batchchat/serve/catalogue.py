"""The model names that the embedded endpoint answers to.

What passes in is the name as the request has it; what comes out is whether Oxen might serve it. It does not know what
a model can do: every name gets the same stand-in.
"""

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
    folded = name.casefold()
    if any(part in folded.replace("_", "-") for part in _NOT_THERE):
        return False
    return folded in MODEL_IDS or folded.rsplit("/", 1)[-1].startswith(_FAMILIES)
