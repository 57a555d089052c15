"""Shards: one of N processes predicts every Nth input, and `merge` joins their rows."""
