"""The file of `evaluate --output`: one row for each image and engine, as csv, jsonl or parquet.

It is written to a hidden file that gets its name when it is complete.
"""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import msgspec

from alexnet_deploy.core.errors import BackendError, OutputError, UsageError
from alexnet_deploy.core.fs.files import rename_new
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.opening import open_working
from alexnet_deploy.core.process.installation import install_command
from alexnet_deploy.engines.registry import installed_module
from alexnet_deploy.pipeline.evaluation.evaluate import RowAnswers
from alexnet_deploy.pipeline.evaluation.scores import TOP

FORMATS = (".csv", ".jsonl", ".parquet")

Cell = str | int | float | bool | None

COLUMNS = (
    "bundle",
    "precision",
    "backend",
    "path",
    "truth_index",
    "truth",
    "correct",
    "error",
    *(f"{what}{rank}" for rank in range(1, TOP + 1) for what in ("index", "label", "probability")),
)
"""Names of the columns. `correct` is whether the first guess is the truth; it is empty where `error` is not."""


class ImagesFile(Protocol):
    """A file that takes the answers of one row of the evaluation after another."""

    def write(self, answered: RowAnswers) -> None:
        """Write a row for each image; none for an engine that failed."""
        ...


def check_images_file(output: Path) -> None:
    """Raise UsageError for an unknown ending, and BackendError for parquet without pyarrow."""
    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output}: its extension is not one of {', '.join(FORMATS)}")
    if output.suffix.lower() == ".parquet" and installed_module(["pyarrow"]) is None:
        raise BackendError(f"{output}: parquet needs pyarrow: run `{install_command('parquet')}`, or write .csv")


@contextmanager
def open_images_file(output: Path) -> Iterator[ImagesFile]:
    """Yield a file that becomes `output` at the end; after an exception nothing is left.

    Raises UsageError if `output` exists by then, OutputError where it cannot be written.
    """
    partial = hidden_beside(output, f".{os.getpid()}.partial")
    try:
        with open_working(partial, "xb") as file:
            with _writer(output, file) as writer:
                yield writer
            os.fsync(file.fileno())
        rename_new(partial, output)
    except FileExistsError as error:
        raise UsageError(
            f"{output}: was created by another program during this run; choose another --output"
        ) from error
    except OSError as error:
        raise OutputError(f"{output}: could not be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writer(output: Path, file: FileIO) -> Iterator[ImagesFile]:
    match output.suffix.lower():
        case ".csv":
            yield _Csv(file)
        case ".jsonl":
            yield _Jsonl(file)
        case _:
            parquet = _Parquet(file)
            yield parquet
            parquet.close()


def records(answered: RowAnswers) -> Iterator[tuple[Cell, ...]]:
    """Yield the cells of COLUMNS for each image of one engine, in order; none for an engine that failed."""
    answers, row, labels = answered.answers, answered.row, answered.bundle.labels
    if answers is None:
        return
    for number, (item, truth) in enumerate(zip(answered.inputs, answered.truths.tolist(), strict=True)):
        error = answers.errors.get(number)
        guesses = answers.guesses[number].tolist() if error is None else []
        probabilities = answers.probabilities[number].tolist()
        cells: list[Cell] = []
        for rank in range(TOP):
            if rank < len(guesses):
                cells += [guesses[rank], labels[guesses[rank]], probabilities[rank]]
            else:
                cells += [None, None, None]
        correct = None if error is not None else guesses[0] == truth
        code = None if error is None else error[0].value
        yield (row.bundle, row.precision, row.backend, item.text, truth, labels[truth], correct, code, *cells)


class _Csv:
    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._put([COLUMNS])

    def write(self, answered: RowAnswers) -> None:
        self._put(
            tuple(str(cell).lower() if isinstance(cell, bool) else cell for cell in cells)
            for cells in records(answered)
        )

    def _put(self, rows: "Iterator[tuple[Cell, ...]] | list[tuple[str, ...]]") -> None:
        for cells in rows:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(cells)
            self._file.write(line.getvalue().encode())


class _Jsonl:
    def __init__(self, file: FileIO) -> None:
        self._file = file

    def write(self, answered: RowAnswers) -> None:
        for cells in records(answered):
            self._file.write(msgspec.json.encode(dict(zip(COLUMNS, cells, strict=True))) + b"\n")


class _Parquet:
    """One row group for each engine, so that memory holds the rows of one engine only."""

    def __init__(self, file: FileIO) -> None:
        import pyarrow
        from pyarrow import parquet

        kinds = {"truth_index": pyarrow.int32(), "correct": pyarrow.bool_()}
        for rank in range(1, TOP + 1):
            kinds |= {f"index{rank}": pyarrow.int32(), f"probability{rank}": pyarrow.float32()}
        self._schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
        self._writer = parquet.ParquetWriter(file, self._schema)

    def write(self, answered: RowAnswers) -> None:
        import pyarrow

        rows = [dict(zip(COLUMNS, cells, strict=True)) for cells in records(answered)]
        if rows:
            self._writer.write_table(pyarrow.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
