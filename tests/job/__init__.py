"""Tests of `job`."""
