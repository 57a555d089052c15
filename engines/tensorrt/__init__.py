"""TensorRT and TensorRT-RTX: building and running plans."""
