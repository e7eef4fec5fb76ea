"""keep: the checkpoint, a map from request to answer."""
