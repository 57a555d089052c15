"""Prediction rows as text: a table for people, jsonl and csv for programs; one row for each input."""

import csv
import io
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from alexnet_deploy.predict import Prediction

RowFormat: TypeAlias = Literal["table", "jsonl", "csv"]

_PATH_WIDTH = 40


class RowWriter:
    """Turns predictions into lines of one format; `header` comes once, before them."""

    def __init__(self, row_format: RowFormat, topk: int) -> None:
        self._format = row_format
        self._topk = topk

    def header(self) -> str:
        """Return the first line with its end, or nothing where the format has none."""
        if self._format != "csv":
            return ""
        ranks = range(1, self._topk + 1)
        names = [name for rank in ranks for name in (f"index{rank}", f"label{rank}", f"probability{rank}")]
        return _csv_line(["path", "ok", "error", "message", *names])

    def row(self, prediction: Prediction) -> str:
        """Return the prediction's line with its end."""
        match self._format:
            case "jsonl":
                return msgspec.json.encode(_record(prediction)).decode() + "\n"
            case "csv":
                return _csv_line(list(self._cells(prediction)))
            case "table":
                return _table_line(prediction)

    def _cells(self, prediction: Prediction) -> Iterator[object]:
        yield from (prediction.path, str(prediction.ok).lower(), prediction.error or "", prediction.message)
        for rank in range(self._topk):
            if rank < len(prediction.top):
                guess = prediction.top[rank]
                yield from (guess.index, guess.label, f"{guess.probability:.6g}")
            else:
                yield from ("", "", "")


def _record(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        error = {"code": prediction.error.value, "message": prediction.message}
        return {"path": prediction.path, "ok": False, "error": error}
    return {"path": prediction.path, "ok": True, "top": prediction.top}


def _csv_line(cells: list[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _table_line(prediction: Prediction) -> str:
    if prediction.error is not None:
        outcome = f"-- {prediction.error.value}: {prediction.message}"
    else:
        outcome = "   ".join(f"{guess.probability:7.2%} {guess.label}" for guess in prediction.top)
    # A name may hold a line break; a row is one line.
    path = prediction.path.replace("\n", "\\n").replace("\r", "\\r")
    return f"{path:<{_PATH_WIDTH}} {outcome}".replace("\n", " ") + "\n"
