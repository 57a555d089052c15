"""Weights that exist: import them, and start training from them."""
