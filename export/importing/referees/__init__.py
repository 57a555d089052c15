"""Programs that run a source as its own program would, to hold our network against."""
