"""What a person or a program names as images: paths, folders, lists, arrays."""
