"""File system helpers: atomic writes, locks, hidden names, free space, retries."""
