"""Inspection of files, bundles, runs and this machine: as records and as text."""
