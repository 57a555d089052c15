"""The proof that an engine agrees with the trained network."""
