"""The network in training: augmentation, initialisation, and the step on one batch."""
