"""From rows to stored outcomes: slots, queue, feed and commits."""
