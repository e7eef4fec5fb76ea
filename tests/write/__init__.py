"""Tests of `write`."""
