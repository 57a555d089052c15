"""One module a format: a file in, a Source out."""
