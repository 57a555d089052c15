"""Studies: a claim about a network, run again with several seeds and judged by its interval."""
