"""Pages that are not part of a bundle or a run."""
