"""NVIDIA's builders and runtimes."""
