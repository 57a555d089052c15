"""Pictures to weights."""
