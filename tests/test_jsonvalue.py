"""JSON of any size is read as it is."""

from __future__ import annotations

import pytest

from batchchat.json_values import read_json


@pytest.mark.parametrize("before", range(2**18 - 25, 2**18 + 1))
def test_long_number_is_exact_wherever_it_stands(before: int) -> None:
    """A large body is searched for long numbers in pieces; one that lies across their border is not rounded."""
    number = 1234567890123456789012345
    body = b'{"a":"%b","n":%d,"z":"%b"}' % (b"a" * (before - 12), number, b"z" * 2**18)
    assert body.index(b"1234") == before
    assert read_json(body)["n"] == number
