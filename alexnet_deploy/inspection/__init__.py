"""What is there: a path, a bundle, this machine; as records and in words."""
