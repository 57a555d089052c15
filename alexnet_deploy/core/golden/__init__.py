"""The golden files: small image files with the pixels that every decoder must make of them."""
