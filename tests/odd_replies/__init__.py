"""Odd replies of the kinds that real endpoints send: the embedded endpoint sends them for the models `odd/NAME`."""

from tests.odd_replies.names import ODDITIES, STATUSES
from tests.odd_replies.respond import respond

__all__ = ["ODDITIES", "STATUSES", "respond"]
