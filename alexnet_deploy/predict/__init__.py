"""Prediction on images, and rows of predictions in files."""
