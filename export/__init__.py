"""Trained weights to a typed ONNX graph, pictures in and probabilities out."""
