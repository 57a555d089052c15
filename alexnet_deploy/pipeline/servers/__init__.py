"""Engines behind other servers: their proof over the wire, and a repository for Triton."""
