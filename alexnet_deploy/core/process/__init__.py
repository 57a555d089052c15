"""What surrounds the work: the machine, versions, signals, threads, messages."""
