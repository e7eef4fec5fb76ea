"""Tests of `send/policy`."""
