"""The bytes of a reply as a completion or a failure."""
