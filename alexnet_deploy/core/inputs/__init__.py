"""Image inputs: paths, folders, patterns, lists and arrays."""
