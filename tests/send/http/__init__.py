"""Tests of `send/http`."""
