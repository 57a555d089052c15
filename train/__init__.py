"""Images to weights."""
