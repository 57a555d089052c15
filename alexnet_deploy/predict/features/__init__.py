"""Features of images: what a bundle of features gives, and the files that hold them."""
