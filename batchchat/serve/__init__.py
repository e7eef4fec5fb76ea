"""The embedded endpoint: a faithful, offline stand-in for Oxen's chat completions, which is no language model."""
