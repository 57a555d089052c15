"""Trained weights to a typed ONNX graph, images in and probabilities out."""
