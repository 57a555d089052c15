"""Referees: each runs a source as its own program does, for comparison with our network."""
