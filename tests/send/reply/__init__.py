"""Tests of `send/reply`."""
