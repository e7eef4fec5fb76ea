"""What follows from a failure."""
