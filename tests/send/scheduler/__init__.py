"""Tests of `send/scheduler`."""
