"""A packed set: images decoded once."""
