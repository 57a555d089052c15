"""Prediction rows as text: a table for people, jsonl and csv for programs; one row per input."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal, TypeAlias

import msgspec
from msgspec import Struct
from rich.cells import cell_len, set_cell_size

from alexnet_deploy.core.csv_text import csv_line
from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.fs.opening import MIB
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.process.say import printable
from alexnet_deploy.predict.prediction import Prediction, check_threshold

RowFormat: TypeAlias = Literal["table", "jsonl", "csv"]

FORMAT_OF_ENDING: Mapping[str, RowFormat] = MappingProxyType(
    {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "table"}
)
"""Row format by file extension."""

_PATH_WIDTH = 40

_MOST_FAILURES = 5
"""Largest number of consecutive failures with the same code that a terminal shows."""

# Limit of one row: 20,000 classes take 2 MiB.
_MOST_BYTES = 64 * MIB

# Limit of one row: a path has at most 4,096 bytes, and so at most as many line breaks.
_MOST_LINES = 8192

# The probabilities of one image differed by less than 1e-6 between batch sizes (float32); csv rounds to six digits.
_ROUNDING = 1e-5

_MARKS = {"true": True, "false": False}

_CSV_OUTCOMES = {("true", ""), *(("false", code.value) for code in ImageErrorCode)}


def choose_format(wanted: RowFormat | None, output: Path | None) -> RowFormat:
    """Return the given format, or that of the output's extension; a table for stdout.

    Raises UsageError if the two contradict each other, or if neither is known.
    """
    if output is None:
        return wanted or "table"
    implied = FORMAT_OF_ENDING.get(output.suffix.lower())
    if wanted is None and implied is None:
        raise UsageError(f"{output}: its extension is not one of {', '.join(FORMAT_OF_ENDING)}; pass --format")
    if wanted is not None and implied is not None and wanted != implied:
        raise UsageError(f"{output}: its extension means {implied}, but --format is {wanted}; change one of them")
    return wanted or implied or "table"


class RowWriter:
    """Converts predictions to lines of one format; write `header` once, before them.

    `labels` are the class names; earlier rows are checked against them. With `reject`, the predictions were made with
    this threshold, and each row says whether its prediction is rejected. A table pads its labels to `label_width`
    characters. A table for a terminal, `width` characters wide, truncates its lines and summarises a long run of the
    same failure in one line; otherwise each prediction has its own line.
    """

    def __init__(
        self,
        row_format: RowFormat,
        topk: int,
        label_width: int = 0,
        width: int | None = None,
        labels: Sequence[str] = (),
        reject: float | None = None,
    ) -> None:
        """Raise UsageError for a `reject` that is not in 0..1."""
        check_threshold(reject)
        self._reject = reject
        self._format = row_format
        self._topk = topk
        self._labels = labels
        self._label_width = label_width
        self._width = width
        self._failure: ImageErrorCode | None = None
        self._num_failures = 0

    @property
    def form(self) -> tuple[RowFormat, int] | tuple[RowFormat, int, float]:
        """Format of the rows, number of classes per row, and the threshold of confidence, if there is one."""
        return (self._format, self._topk) if self._reject is None else (self._format, self._topk, self._reject)

    def refusal(self, row: "WrittenRow") -> str | None:
        """Return why this writer cannot have written a row; None if it can."""
        for index, probability in row.probabilities.items():
            # This form also refuses NaN.
            if not 0 <= probability <= 1:
                return f"{probability} is not a probability"
            if self._labels and not 0 <= index < len(self._labels):
                return f"class index {index} is not in 0..{len(self._labels) - 1}"
            if self._labels and row.labels[index] != self._labels[index]:
                return f"class {index} is {self._labels[index]!r}, not {row.labels[index]!r}"
        if self._labels and (row.outcome == "ok") != bool(row.probabilities):
            return "a prediction must have classes, and an error must have none"
        return self._refusal_of_mark(row)

    def _refusal_of_mark(self, row: "WrittenRow") -> str | None:
        if self._reject is None:
            return None if row.rejected is None else "it was written with --reject"
        if row.rejected is None:
            return "it was written without --reject"
        confidence = max(row.probabilities.values(), default=1.0)
        # At the threshold itself csv has lost the digits that decided.
        if abs(confidence - self._reject) > _ROUNDING and row.rejected != (confidence < self._reject):
            return f"it was not written with --reject {self._reject:g}"
        return None

    def header(self) -> str:
        """Return the header line with its line end, or an empty string if the format has none."""
        if self._format != "csv":
            return ""
        ranks = range(1, self._topk + 1)
        names = [name for rank in ranks for name in (f"index{rank}", f"label{rank}", f"probability{rank}")]
        marks = [] if self._reject is None else ["rejected"]
        return csv_line(["path", "ok", "error", "message", *names, *marks])

    def row(self, prediction: Prediction) -> str:
        """Return the prediction's line with its line end; on a terminal perhaps none, or one more about failures."""
        match self._format:
            case "jsonl":
                return msgspec.json.encode(_record(prediction)).decode() + "\n"
            case "csv":
                return csv_line(list(self._cells(prediction)))
            case "table" if self._width is None:
                return self._table_line(prediction)
            case "table":
                return self._terminal_lines(prediction, self._width)

    def footer(self) -> str:
        """Return the text after the last row: on a terminal, the number of hidden failures."""
        num_hidden = self._num_failures - _MOST_FAILURES
        failure, self._failure, self._num_failures = self._failure, None, 0
        return f"... {num_hidden:,} more {failure}\n" if num_hidden > 0 else ""

    def _terminal_lines(self, prediction: Prediction, width: int) -> str:
        before = "" if prediction.error is not None and prediction.error == self._failure else self.footer()
        if prediction.error is not None:
            self._failure = prediction.error
            self._num_failures += 1
            if self._num_failures > _MOST_FAILURES:
                return ""
        return before + _cut(self._table_line(prediction, path_width=max(12, min(_PATH_WIDTH, width // 3))), width)

    def _table_line(self, prediction: Prediction, path_width: int | None = None) -> str:
        if prediction.error is not None:
            outcome = f"     -- {prediction.error.value}: {prediction.message}"
        else:
            guesses = (f"{guess.probability:7.2%} {guess.label:<{self._label_width}}" for guess in prediction.top)
            # Rows beside a file of features have no classes.
            outcome = "  ".join(guesses).rstrip() or "ok"
        if prediction.rejected is not None:
            outcome = f"{'rejected' if prediction.rejected else '':<8} {outcome}"
        path = printable(prediction.path)
        if path_width is None:
            return f"{path:<{_PATH_WIDTH}} {printable(outcome)}\n"
        return f"{set_cell_size(_shortened(path, path_width), path_width)} {printable(outcome)}\n"

    def _cells(self, prediction: Prediction) -> Iterator[object]:
        yield from (prediction.path, str(prediction.ok).lower(), prediction.error or "", prediction.message)
        for rank in range(self._topk):
            if rank < len(prediction.top):
                guess = prediction.top[rank]
                yield from (guess.index, guess.label, f"{guess.probability:.6g}")
            else:
                yield from ("", "", "")
        if prediction.rejected is not None:
            yield str(prediction.rejected).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRow:
    """An existing row of a file, parsed."""

    path: str
    outcome: str
    """`ok`, or the error code."""
    probabilities: dict[int, float]
    """Probability by class index, as written; csv rounds it."""
    labels: dict[int, str]
    """Label by class index."""
    rejected: bool | None = None
    """Whether it is marked as rejected; None if the row has no mark."""
    record: bytes
    """The row's bytes, with its line end."""

    def is_like(self, other: "WrittenRow") -> bool:
        """Return whether both rows agree on classes and probabilities, up to the rounding of another batch size."""
        if self.probabilities.keys() != other.probabilities.keys():
            return False
        return all(abs(value - other.probabilities[index]) <= _ROUNDING for index, value in self.probabilities.items())


def read_rows(file: BinaryIO, writer: RowWriter, place: Path) -> Iterator[tuple[WrittenRow | None, int]]:
    """Yield each complete row that `writer` wrote to a file at `place`, jsonl or csv, and the offset of its end.

    The header counts as a row of None. Reading stops at the first truncated or damaged row. Raises UsageError for a row
    that `writer` cannot have written.
    """
    row_format = writer.form[0]
    end = 0
    if header := writer.header().encode():
        if file.read(len(header)) != header:
            return
        end = len(header)
        yield None, end
    for number, record in enumerate(split_rows(file, row_format), 1):
        row = read_row(record, row_format)
        if row is None:
            return
        if reason := writer.refusal(row):
            raise UsageError(
                f"{place}: row {number:,} does not fit this bundle: {reason}; remove the file, or choose another "
                "--output"
            )
        end += len(record)
        yield row, end


def read_row(record: bytes, row_format: RowFormat) -> WrittenRow | None:
    """Return one parsed row of jsonl or csv, None if it is damaged."""
    return _json_row(record) if row_format == "jsonl" else _csv_row(record)


def split_rows(file: BinaryIO, row_format: RowFormat) -> Iterator[bytes]:
    """Yield the bytes of each complete row of jsonl or csv, with its line end; stop at one that cannot be a row."""
    lines: list[bytes] = []
    room = _MOST_BYTES
    is_quoted = False
    while line := file.readline(room):
        lines.append(line)
        room -= len(line)
        # A quoted path in csv may hold line breaks; a stray quote would join all lines that follow, hence the limits.
        is_quoted ^= row_format == "csv" and line.count(b'"') % 2 == 1
        if is_quoted and room and len(lines) <= _MOST_LINES:
            continue
        if is_quoted or not line.endswith(b"\n"):
            return
        yield b"".join(lines)
        lines.clear()
        room = _MOST_BYTES


class _JsonError(Struct):
    code: ImageErrorCode


class _JsonGuess(Struct):
    index: int
    label: str
    probability: float


class _JsonRow(Struct):
    path: str
    ok: bool
    error: _JsonError | None = None
    rejected: bool | None = None
    top: tuple[_JsonGuess, ...] = ()


def _json_row(record: bytes) -> WrittenRow | None:
    try:
        row = from_json(record, _JsonRow)
    except msgspec.DecodeError:
        return None
    if row.ok != (row.error is None):
        return None
    return WrittenRow(
        path=row.path,
        outcome="ok" if row.error is None else row.error.code.value,
        probabilities={guess.index: guess.probability for guess in row.top},
        labels={guess.index: guess.label for guess in row.top},
        rejected=row.rejected,
        record=record,
    )


def _csv_row(record: bytes) -> WrittenRow | None:
    try:
        ((path, ok, code, *rest),) = csv.reader(io.StringIO(record.decode(), newline=""), strict=True)
        # After the message come three cells per class: index, label and probability; then perhaps the mark.
        rejected = _MARKS[rest.pop()] if len(rest) % 3 == 2 else None
        cells = zip(rest[1::3], rest[2::3], rest[3::3], strict=False)
        guesses = {int(index): (label, float(value)) for index, label, value in cells if index}
    except (ValueError, KeyError, csv.Error):
        return None
    # Almost any line of text parses as csv, also a row after NUL bytes.
    if "\0" in record.decode() or (ok, code) not in _CSV_OUTCOMES:
        return None
    return WrittenRow(
        path=path,
        outcome=code or "ok",
        probabilities={index: value for index, (_, value) in guesses.items()},
        labels={index: label for index, (label, _) in guesses.items()},
        rejected=rejected,
        record=record,
    )


def _record(prediction: Prediction) -> dict[str, object]:
    mark = {} if prediction.rejected is None else {"rejected": prediction.rejected}
    if prediction.error is not None:
        error = {"code": prediction.error.value, "message": prediction.message}
        return {"path": prediction.path, "ok": False, **mark, "error": error}
    classes = {"top": prediction.top} if prediction.top else {}
    return {"path": prediction.path, "ok": True, **mark, **classes}


def _shortened(text: str, width: int) -> str:
    """Return text shortened to `width` terminal columns: its beginning and, twice as long, its end."""
    if cell_len(text) <= width:
        return text
    end = 2 * (width - 3) // 3
    return f"{set_cell_size(text, width - 3 - end)}...{set_cell_size(text[::-1], end)[::-1]}"


def _cut(line: str, width: int) -> str:
    """Return a line, with its line end, truncated to `width` terminal columns."""
    text = line.removesuffix("\n")
    return line if cell_len(text) <= width else f"{set_cell_size(text, width - 3)}...\n"
