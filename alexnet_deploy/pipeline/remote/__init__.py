"""The proof of an engine behind a server."""
