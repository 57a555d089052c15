"""The process and its environment: machine, versions, signals, threads, messages."""
