"""Training: from labelled images to a weights file."""
