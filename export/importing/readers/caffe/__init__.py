"""Caffe's models: a file of layers with their weights, and its means."""
