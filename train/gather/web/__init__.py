"""Files behind web addresses: what may be asked for, how often, and what an answer is."""
