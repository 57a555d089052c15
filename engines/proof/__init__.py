"""The proof that an engine says what the trained network said."""
