"""Read ONNX graphs of any program: the structure without the weights, then the chain of layers in it."""
