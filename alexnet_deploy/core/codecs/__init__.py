"""File formats: detection by signature, limits on decoding work, and metadata that Pillow does not return."""
