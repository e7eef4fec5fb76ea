"""What requests may cost, and what is set aside for them."""
