"""The ground floor: tables, files, images and bundles; no engine and no training."""
