"""Keras's files: HDF5 (.h5) of Keras 1 to 3, and archives (.keras)."""
