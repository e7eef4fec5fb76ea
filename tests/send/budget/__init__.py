"""Tests of `send/budget`."""
