"""Commands that make data to train on."""
