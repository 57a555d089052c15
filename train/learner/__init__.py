"""A network that learns, one batch at a time."""
