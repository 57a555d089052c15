"""Graph backends, one file each."""
