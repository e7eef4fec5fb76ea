"""What the embedded endpoint is asked, and how it refuses."""
