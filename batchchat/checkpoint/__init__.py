"""The map from request to answer, in SQLite."""
