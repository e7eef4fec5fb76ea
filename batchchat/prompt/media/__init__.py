"""Images and videos that rows name."""
