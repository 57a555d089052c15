"""Labelled images as they lie on disk: formats, the survey, batches."""
