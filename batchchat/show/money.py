"""Dollars as people write them."""


def dollars(usd: float) -> str:
    """Return an amount with the digits that matter of it: `$1,234.50`, `$0.0123`, `less than $0.0001`."""
    if usd >= 1 or not usd:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.00005 else "less than $0.0001"
