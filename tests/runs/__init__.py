"""Whole runs, from outside."""
