"""Training images from the web: a list of URLs by class -> a data folder."""
