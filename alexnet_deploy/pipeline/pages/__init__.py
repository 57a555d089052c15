"""Pages of one run: the report of a training run, and the gallery of predictions."""
