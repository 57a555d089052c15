"""Calibration of a trained network, and the gate that its INT8 graph must pass."""
