"""The ground floor: tables, files, pictures and bundles; no engine and no training."""
