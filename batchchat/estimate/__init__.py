"""What a run will still take, from what is known."""
