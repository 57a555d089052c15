"""Calibration of a trained network's confidence on labelled images."""
