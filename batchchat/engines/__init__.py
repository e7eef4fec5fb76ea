"""Who sends: this process."""
