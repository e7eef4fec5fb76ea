"""How the embedded endpoint reads a prompt: the options it lists, and texts cut to tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchchat.serve.request.tokens import cut_to_tokens, token_count
from batchchat.serve.request.words import listed_options


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Answer with one of: billing, shipping, bug, other.", ("billing", "shipping", "bug", "other")),
        ("Answer with one word: positive, negative or neutral", ("positive", "negative", "neutral")),
        ("labels: a, b, c", ("a", "b", "c")),
        ("choose from [a, b]", ("a", "b")),
        ("Classify it as positive, negative or neutral.", ("positive", "negative", "neutral")),
        ("Pick one of these (billing, shipping, account access).", ("billing", "shipping", "account access")),
        ("Categories:\n- billing: money\n- shipping\n\nTicket: x", ("billing", "shipping")),
        ("Reply with yes or no.", ("yes", "no")),
        ("One of: electronics | clothing | home", ("electronics", "clothing", "home")),
        ('Choose: "high", "medium" or "low"', ("high", "medium", "low")),
        ("I say good things, mostly.", ()),
        ("Summarise: a b c", ()),
    ],
)
def test_listed_options_are_found(prompt: str, options: tuple[str, ...]) -> None:
    """Options are found in the ways that prompts list them, and none where there are none."""
    assert listed_options(prompt)[0] == options


@given(text=st.text(max_size=400), limit=st.integers(1, 50))
def test_cut_text_keeps_its_limit(text: str, limit: int) -> None:
    """A cut text is a start of the text and has no more tokens than allowed."""
    cut = cut_to_tokens(text, limit)
    assert text.startswith(cut)
    assert token_count(cut) <= limit
