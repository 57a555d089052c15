"""Shared base: architecture tables, files, images and bundles; no engine and no training."""
