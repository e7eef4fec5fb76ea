"""Tests of `send`."""
