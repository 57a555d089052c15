"""Labelled images on disk: formats, the survey, batches."""
