"""Decode image files to 256 x 256 RGB arrays, one by one or in batches."""
