"""The results of a study: statistics, files and the page."""
