"""Tests of `send/limits`."""
