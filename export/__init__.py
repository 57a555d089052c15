"""Export trained weights to a typed ONNX graph: images in, probabilities out."""
