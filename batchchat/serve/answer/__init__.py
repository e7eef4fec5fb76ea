"""What the embedded endpoint answers."""
