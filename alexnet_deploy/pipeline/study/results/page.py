"""The page of a study, from its results."""
from pathlib import Path
REPORT = "report.html"
def write_page(out, result, rows, times, images): pass
