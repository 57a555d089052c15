"""Engines - the trained network, graphs, plans - and the proof that they agree."""
