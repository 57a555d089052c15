"""Labelled images that exports measure on: a folder, or those that the weights were trained on."""
