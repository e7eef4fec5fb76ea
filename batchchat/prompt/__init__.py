"""prompt: a row -> the exact request, and its key."""
