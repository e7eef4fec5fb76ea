"""The tests: one module for each module, whole runs from outside, and the structure itself."""
