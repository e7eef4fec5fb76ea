"""write: source batches and answers -> the output, complete or not at all."""
