"""The search for the best system within a time."""
