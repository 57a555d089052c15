"""Rows on their way into a file, which gets its name when it is whole; a run that was stopped can be gone on with.

Until then they lie hidden beside its place, in .NAME.DIGEST.partial, each written out as it is made. The digest is of
what the rows depend on: rows of another bundle or form are not gone on with.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from alexnet_deploy.core.errors import OutputError, UsageError
from alexnet_deploy.core.files import sha256, sync_directory
from alexnet_deploy.rows import RowWriter, read_rows


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
def open_row_file(output: Path, writer: RowWriter, depends_on: str, *, resume: bool) -> Iterator[RowFile]:
    """Give a file of rows that becomes `output` at the end; rows that were written before an exception stay, hidden.

    `depends_on` is what the rows depend on beside their form. With `resume` the rows of a run that was stopped are
    kept, where there are any. Raises UsageError where `output` exists or cannot be made, where rows of a stopped run
    are there and `resume` is not given or they are of other settings, or while another run writes them; OutputError
    where the file cannot be finished.
    """
    _refuse_existing(output)
    partial = output.with_name(f".{output.name}.{sha256(repr((writer.form, depends_on)).encode())[:12]}.partial")
    if resume and not partial.exists() and (others := sorted(output.parent.glob(f".{output.name}.*.partial"))):
        raise UsageError(f"{others[0]}: its rows are of another bundle or form; without --resume they are left alone")
    if not resume and partial.exists():
        raise UsageError(f"{partial}: holds the rows of a run that was stopped; --resume goes on with them")
    try:
        file = FileIO(partial, "a+")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error
    with file:
        _lock(file, output)
        rows = RowFile(file, writer, output)
        try:
            yield rows
        except BaseException:
            if not rows.outcomes:
                partial.unlink()
            raise
        _refuse_existing(output)
        try:
            os.fsync(file.fileno())
            partial.rename(output)
            sync_directory(output.parent)
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error.strerror}") from error


def _refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise UsageError(f"{output}: exists already; choose another --output")


def _lock(file: FileIO, output: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{output}: another run is writing it now") from error
    # That run may have finished between our opening and our locking.
    _refuse_existing(output)
