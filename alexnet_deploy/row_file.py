"""Rows on their way into a file, which gets its name when it is whole; a run that was stopped can be gone on with.

Until then they lie hidden beside its place, in .NAME.DIGEST.partial, each written out as it is made. The digest is of
what the rows depend on: rows of another bundle or form are not gone on with.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from alexnet_deploy.core.errors import OutputError, UsageError
from alexnet_deploy.core.files import sha256, sync_directory
from alexnet_deploy.core.locks import is_taken
from alexnet_deploy.core.say import Say, say_nothing
from alexnet_deploy.rows import RowWriter, WrittenRow, read_rows


class RowFile:
    """A file of rows that is being written, from its first row or from where it was left.

    Whoever writes a row counts it in `outcomes`.
    """

    def __init__(self, file: FileIO, writer: RowWriter, output: Path) -> None:
        """Keep the whole rows at the beginning of `file`, and cut off what follows them."""
        self._file = file
        self._writer = writer
        self._output = output
        self.outcomes: Counter[str] = Counter()
        """How many of its rows are `ok`, and how many have which error code."""
        end = 0
        file.seek(0)
        with open(file.fileno(), "rb", closefd=False) as kept:
            for row, row_end in read_rows(kept, writer):
                end = row_end
                if row is not None:
                    self.outcomes[row.outcome] += 1
        file.truncate(end)
        file.seek(end)
        if not end:
            self.write(writer.header())

    @property
    def place(self) -> Path:
        """Where the rows are until the file is whole."""
        return Path(self._file.name)

    def kept_paths(self) -> Iterator[str]:
        """Yield the paths of the rows that were kept; to be used up before the next is written."""
        with self.place.open("rb") as kept:
            for row, _ in read_rows(kept, self._writer):
                if row is not None:
                    yield row.path

    def write(self, line: str) -> None:
        """Hand one line to the operating system; raises OutputError where it does not take it."""
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise OutputError(f"{self._output}: cannot be written: {error.strerror}") from error


@contextmanager
def open_row_file(
    output: Path, writer: RowWriter, depends_on: str, *, resume: bool, say: Say = say_nothing
) -> Iterator[RowFile]:
    """Give a file of rows that becomes `output` at the end; rows that were written before an exception stay, hidden.

    `depends_on` is what the rows depend on beside their form. With `resume` the rows of a run that was stopped are
    kept, where there are any. Raises UsageError where `output` exists or cannot be made, where rows of a stopped run
    are there and `resume` is not given or they are of other settings, while another run writes them, or where `output`
    has appeared meanwhile; OutputError where the file cannot be finished.
    """
    _refuse_existing(output)
    partial = output.with_name(f".{output.name}.{sha256(repr((writer.form, depends_on)).encode())[:12]}.partial")
    if resume and not partial.exists() and (others := _partials(output)):
        raise UsageError(
            f"{others[0]}: its rows are of another bundle, engine or form; without --resume they are left alone"
        )
    was_there = partial.exists()
    try:
        file = FileIO(partial, "a+")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error
    with file:
        with _in_words(output, partial):
            _lock(file, output, partial, say, was_there=was_there)
            if not resume and file.seek(0, os.SEEK_END) > len(writer.header().encode()):
                remedy = "remove it" if writer.form[0] == "table" else "--resume goes on with them"
                raise UsageError(f"{partial}: holds the rows of a run that was stopped; {remedy}")
            rows = RowFile(file, writer, output)
        try:
            yield rows
        except BaseException:
            if not rows.outcomes:
                partial.unlink()
            raise
        if os.path.lexists(output):
            raise UsageError(f"{output}: has appeared meanwhile; the rows are all in {partial}")
        with _in_words(output, partial):
            os.fsync(file.fileno())
            partial.rename(output)
            sync_directory(output.parent)


def whole_rows(output: Path, writer: RowWriter) -> Iterator[WrittenRow]:
    """Yield the rows of a file that is whole; raises UsageError where it is none of this form."""
    if not output.is_file():
        raise UsageError(f"{output}: is no file; choose another --output")
    end = 0
    with output.open("rb") as file:
        for row, row_end in read_rows(file, writer):
            end = row_end
            if row is not None:
                yield row
    if end != output.stat().st_size:
        raise UsageError(
            f"{output}: exists, and from byte {end:,} on holds no rows of this form; choose another --output"
        )


def _partials(output: Path) -> list[Path]:
    name = re.compile(rf"\.{re.escape(output.name)}\.[0-9a-f]{{12}}\.partial")
    return sorted(path for path in output.parent.iterdir() if name.fullmatch(path.name))


@contextmanager
def _in_words(output: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}; the rows so far are in {partial}") from error


def _refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise UsageError(f"{output}: exists already; choose another --output")


def _lock(file: FileIO, output: Path, partial: Path, say: Say, *, was_there: bool) -> None:
    try:
        taken = is_taken(file, output, say)
    except OSError:
        if not was_there and not file.seek(0, os.SEEK_END):
            partial.unlink(missing_ok=True)
        raise
    if taken:
        raise UsageError(f"{output}: another run is writing it now")
    # That run may have finished, or given up, between our opening and our locking.
    _refuse_existing(output)
    if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
        raise UsageError(f"{output}: another run was writing it until now; start again")
