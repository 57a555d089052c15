"""Processes, devices, random numbers, signals and memory of a training run."""
