"""A CSV cell that is a number -> a Python number that prints as the cell does."""


class CellFloat(float):
    """A float whose text is that of the cell it was read from: `3.10` stays `3.10`."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "CellFloat":
        """Read the number; `text` is a plain decimal number."""
        value = super().__new__(cls, text)
        value.text = text
        return value

    def __str__(self) -> str:
        return self.text


def number(text: str) -> int | CellFloat:
    """Return the number that a cell of a numeric column holds: an int if it is written as one."""
    return int(text) if text.lstrip("-").isdecimal() else CellFloat(text)
