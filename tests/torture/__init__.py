"""Attacks on whole runs, and what they cost: `python -m tests.torture`; `test_torture.py` does it small."""
