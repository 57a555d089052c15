"""Packed sets: images decoded once and stored as pixels."""
