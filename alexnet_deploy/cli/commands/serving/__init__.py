"""Commands that put bundles behind a server."""
