"""Tests of `prompt`."""
