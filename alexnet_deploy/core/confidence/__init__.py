"""Confidence of predictions: its agreement with accuracy, and thresholds on it."""
