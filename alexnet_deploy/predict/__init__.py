"""Images to predictions, and predictions to rows in a file."""
