"""Workflows that join packages: weights to a bundle, a bundle to its check, a run to its report."""
