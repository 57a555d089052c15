"""File formats: which one a file is of, whether it may be decoded here, and what its bytes state."""
