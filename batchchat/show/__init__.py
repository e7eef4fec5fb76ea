"""show: progress and summaries for people and for scripts."""
