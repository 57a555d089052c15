"""Processes, devices, random numbers, signals and memory in training."""
