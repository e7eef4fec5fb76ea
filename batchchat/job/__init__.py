"""The job file: its model, its reading, and its problems by line."""
