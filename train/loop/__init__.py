"""Epochs, validation, checkpoints and the files of a run."""
