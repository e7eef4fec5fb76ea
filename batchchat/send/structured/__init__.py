"""Answers that must fit a JSON Schema."""
