"""Lines of csv files that other programs read."""

import csv
import io
from collections.abc import Iterable


def csv_line(cells: Iterable[object]) -> str:
    """Return the cells as one record of csv, with a line feed at its end."""
    line = io.StringIO()
    # With "\r\n" cells with a bare carriage return are quoted too: Python 3.11 quotes only the characters of its own
    # line end, and many readers end a line at a carriage return.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"
