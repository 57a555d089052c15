"""One image file to one 256 x 256 RGB array, and batches of them."""
