"""ONNX graphs of any program: their structure read apart from their weights, and the chain of layers in it."""
