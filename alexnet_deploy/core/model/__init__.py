"""The model: architecture, weights, preprocessing, views and labels."""
