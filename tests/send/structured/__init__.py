"""Tests of `send/structured`."""
