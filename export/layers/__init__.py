"""The layers of a graph one by one: their outputs, and what each must make of its input."""
