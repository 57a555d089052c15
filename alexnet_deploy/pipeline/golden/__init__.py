"""Golden vectors and golden files of a bundle, and the check of any program that decodes them."""
