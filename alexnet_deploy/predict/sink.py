"""The sink of predictions: each becomes a row that is formatted, written at once and counted."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path, PurePath
from typing import BinaryIO

from alexnet_deploy.core.errors import ImageErrorCode, OutputError, UsageError
from alexnet_deploy.core.fs.opening import open_input, open_working, write_whole
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.resume import Again
from alexnet_deploy.predict.row_formats import RowWriter, WrittenRow, read_row, read_rows


class Tally(Counter[str]):
    """Number of rows that are `ok`, and number of rows per error code."""

    def __init__(self) -> None:
        super().__init__()
        self.endings: Counter[str] = Counter()
        """File extensions of the inputs that are not_an_image, such as a camera's sidecar files."""
        self.num_rejected = 0
        """Number of rows that are marked as rejected; they are `ok` too."""

    def add(self, row: Prediction | WrittenRow) -> None:
        """Count a row."""
        path, outcome = row.path, row.outcome
        self[outcome] += 1
        self.num_rejected += bool(row.rejected)
        if outcome == ImageErrorCode.NOT_AN_IMAGE.value:
            ending = PurePath(path).suffix
            self.endings[ending if ending and ending.isprintable() else "without extension"] += 1


class RowSink:
    """Writes predictions as rows: formats each one, writes it at once and counts its outcome."""

    def __init__(self, writer: RowWriter, put: Callable[[bytes], object]) -> None:
        """Format rows with `writer`; `put` writes the bytes of a row, or of what comes before or after the rows."""
        self._writer = writer
        self._put = put
        self.outcomes = Tally()

    def begin(self) -> None:
        """Write the header, if the format has one."""
        self._put(self._writer.header().encode())

    def done(self) -> Iterable[str | Again]:
        """Return the paths of the existing rows, marked Again if their input is retried."""
        return ()

    def write(self, prediction: Prediction) -> None:
        """Write and count one row."""
        self._put_row(self._writer.row(prediction).encode())
        self.outcomes.add(prediction)

    def finish(self) -> None:
        """Write the footer, if the format has one."""
        self._put(self._writer.footer().encode())

    def _put_row(self, record: bytes) -> None:
        self._put(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderRows:
    """Rows of an earlier run, of which some inputs are retried."""

    path: Path
    is_whole: bool
    """True for a complete `output`; such a file does not say which bundle wrote it."""
    codes: frozenset[str]
    """Error codes whose inputs are retried."""

    def rows(self, writer: RowWriter, start: int) -> Iterator[tuple[WrittenRow, bool]]:
        """Yield each row from number `start` on, from 0, and whether its input is retried.

        In a complete file the first prediction is retried too, as a sample: the engine must reproduce it.
        """
        needs_sample = self.is_whole
        # Links are followed for a complete file only, which is read and never written to.
        with open_input(self.path) if self.is_whole else _reading(self.path) as file:
            number = 0
            for row, _ in read_rows(file, writer, self.path):
                if row is None:
                    continue
                if number >= start:
                    is_sample = needs_sample and row.outcome == "ok"
                    needs_sample = needs_sample and not is_sample
                    yield row, is_sample or row.outcome in self.codes
                number += 1


class RowFile(RowSink):
    """A file of rows that is being written, from its first row or from where an interrupted run stopped.

    Its methods raise OutputError if a write fails.
    """

    def __init__(self, file: FileIO, writer: RowWriter, output: Path, older: OlderRows | None = None) -> None:
        """Keep the complete rows at the beginning of `file` and cut off the rest; the rows of `older` follow them."""
        super().__init__(writer, self._append)
        self._file = file
        self._output = output
        self._older = older
        end = 0
        file.seek(0)
        with open(file.fileno(), "rb", closefd=False) as kept:
            for row, row_end in read_rows(kept, writer, self.place):
                end = row_end
                if row is not None:
                    self.outcomes.add(row)
        file.truncate(end)
        file.seek(end)
        self._num_kept = self.outcomes.total()
        self._older_rows = iter(()) if older is None else older.rows(writer, self._num_kept)
        if not end:
            self.begin()

    @property
    def place(self) -> Path:
        """The hidden file that holds the rows until the output is complete."""
        return Path(self._file.name)

    def done(self) -> Iterator[str | Again]:
        """Yield the paths of the existing rows, marked Again if their input is retried.

        Start the iteration before the next row is written.
        """
        with _reading(self.place) as kept:
            for number, row in enumerate(self._rows_in(kept)):
                if number == self._num_kept:
                    # Later rows were written by this run.
                    break
                yield row.path
        if self._older is not None:
            for row, is_again in self._older.rows(self._writer, self._num_kept):
                yield Again(path=row.path) if is_again else row.path

    def _rows_in(self, kept: BinaryIO) -> Iterator[WrittenRow]:
        return (row for row, _ in read_rows(kept, self._writer, self.place) if row is not None)

    def finish(self) -> None:
        """Write the remaining older rows."""
        replaced = self._copy_older()
        assert replaced is None, "each retried input has a row"
        super().finish()

    def _put_row(self, record: bytes) -> None:
        """Write one row to the operating system, after the older rows that come before it.

        Raises UsageError if a sample is not reproduced or a complete file would grow.
        """
        replaced = self._copy_older()
        if replaced is not None and replaced.outcome == "ok":
            _agree(self._output, replaced, read_row(record, self._writer.form[0]))
            record = replaced.record
        elif replaced is None and self._older is not None and self._older.is_whole:
            raise UsageError(
                f"{self._output}: is complete with {counted(self.outcomes.total(), 'row')}, but there are more inputs; "
                "choose another --output"
            )
        self._append(record)

    def _copy_older(self) -> WrittenRow | None:
        """Write the older rows up to the next one to replace, and return that one; None if there are no more."""
        for row, is_again in self._older_rows:
            if is_again:
                return row
            self._append(row.record)
            self.outcomes.add(row)
        return None

    def _append(self, record: bytes) -> None:
        append(self._file, record, self._output)


def write_all(
    predictions: Generator[Prediction], rows: RowSink, each: Callable[[Prediction], object] = lambda prediction: None
) -> None:
    """Write a row for each prediction, then the footer; `each` is called after every row."""
    with closing(predictions):
        for prediction in predictions:
            rows.write(prediction)
            each(prediction)
    rows.finish()


def append(file: FileIO, data: bytes, output: Path) -> None:
    """Write all bytes to an unbuffered file; raises OutputError, which names `output`."""
    try:
        write_whole(file, data)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error


def _agree(output: Path, was: WrittenRow, now: WrittenRow | None) -> None:
    if now is None or not was.is_like(now):
        raise UsageError(
            f"{output}: its row for {was.path} is not reproduced, so another bundle, engine or image gave its rows; "
            "choose another --output"
        )


def _reading(path: Path) -> BufferedReader:
    return BufferedReader(open_working(path, "rb"))
