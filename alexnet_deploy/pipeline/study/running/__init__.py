"""The runs of a study: their images, their training, their scores, and the budget."""
