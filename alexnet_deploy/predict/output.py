"""Output files of prediction rows: a file gets its name when it is complete, and an interrupted run can be resumed.

Until then the rows are in a hidden file in the same folder, .NAME.DIGEST.partial; each row is written as soon as it is
made. The digest covers everything that the rows depend on, so rows of another bundle or format are never resumed.

With --retry-failed all rows, retried and copied, go to .NAME.DIGEST.again.partial, which replaces the older file at the
end. Both files exist until then, so a retry can be interrupted and resumed too.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path, PurePath
from typing import BinaryIO, Literal

from alexnet_deploy.core.errors import ImageErrorCode, OutputError, UsageError
from alexnet_deploy.core.fs.files import rename_new, sha256, sync_directory
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import open_input, open_working
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.predict.resume import Again
from alexnet_deploy.predict.row_formats import RowWriter, WrittenRow, read_row, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Older:
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


class Tally(Counter[str]):
    """Number of rows that are `ok`, and number of rows per error code."""

    def __init__(self) -> None:
        super().__init__()
        self.endings: Counter[str] = Counter()
        """File extensions of the inputs that are not_an_image, such as a camera's sidecar files."""

    def add(self, path: str, outcome: str) -> None:
        """Count a row."""
        self[outcome] += 1
        if outcome == ImageErrorCode.NOT_AN_IMAGE.value:
            ending = PurePath(path).suffix
            self.endings[ending if ending and ending.isprintable() else "without extension"] += 1


class RowFile:
    """A file of rows that is being written, from its first row or from where an interrupted run stopped.

    The caller counts each row it writes in `outcomes`.
    """

    def __init__(self, file: FileIO, writer: RowWriter, output: Path, older: _Older | None = None) -> None:
        """Keep the complete rows at the beginning of `file` and cut off the rest; the rows of `older` follow them."""
        self._file = file
        self._writer = writer
        self._output = output
        self._older = older
        self.outcomes = Tally()
        end = 0
        file.seek(0)
        with open(file.fileno(), "rb", closefd=False) as kept:
            for row, row_end in read_rows(kept, writer, self.place):
                end = row_end
                if row is not None:
                    self.outcomes.add(row.path, row.outcome)
        file.truncate(end)
        file.seek(end)
        self._num_kept = self.outcomes.total()
        self._older_rows = iter(()) if older is None else older.rows(writer, self._num_kept)
        if not end:
            self._append(writer.header().encode())

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

    def write(self, line: str) -> None:
        """Write one line to the operating system, after the older rows that come before it.

        Raises OutputError if the write fails, UsageError if a sample is not reproduced or a complete file would grow.
        """
        replaced = self._copy_older()
        record = line.encode()
        if replaced is not None and replaced.outcome == "ok":
            _agree(self._output, replaced, read_row(record, self._writer.form[0]))
            record = replaced.record
        elif replaced is None and self._older is not None and self._older.is_whole:
            raise UsageError(
                f"{self._output}: is complete with {counted(self.outcomes.total(), 'row')}, but there are more inputs; "
                "choose another --output"
            )
        self._append(record)

    def finish(self) -> None:
        """Write the remaining older rows; raises OutputError if the write fails."""
        replaced = self._copy_older()
        assert replaced is None, "each retried input has a row"

    def _copy_older(self) -> WrittenRow | None:
        """Write the older rows up to the next one to replace, and return that one; None if there are no more."""
        for row, is_again in self._older_rows:
            if is_again:
                return row
            self._append(row.record)
            self.outcomes.add(row.path, row.outcome)
        return None

    def _append(self, record: bytes) -> None:
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise OutputError(f"{self._output}: cannot be written: {error.strerror}") from error


def _agree(output: Path, was: WrittenRow, now: WrittenRow | None) -> None:
    if now is None or not was.is_like(now):
        raise UsageError(
            f"{output}: its row for {was.path} is not reproduced, so another bundle, engine or image gave its rows; "
            "choose another --output"
        )


@contextmanager
def open_row_file(
    output: Path,
    writer: RowWriter,
    depends_on: str,
    *,
    resume: bool,
    again: frozenset[str] = frozenset(),
    say: Say = say_nothing,
) -> Iterator[RowFile]:
    """Yield a file of rows that becomes `output` at the end; after an exception the rows stay in a hidden file.

    `depends_on` names everything but their format that the rows depend on. With `resume` the rows of an interrupted run
    are kept, if there are any. With error codes in `again`, which needs `resume`, `output` may also be complete, and
    the rows with such an error are replaced.

    Raises UsageError if `output` exists, cannot be created, is being written by another run, or was created while this
    one wrote its rows; if there are rows of an interrupted run and `resume` is not given; and if such rows have other
    settings or cannot be `writer`'s. Raises OutputError if the file cannot be completed.
    """
    if again and output.exists():
        # Follow a link: its target is replaced, not the link.
        output = output.resolve()
    digest = sha256(repr((writer.form, depends_on)).encode())[:12]
    partial = hidden_beside(output, f".{digest}.partial")
    older = output if os.path.lexists(output) else partial
    replacing = hidden_beside(output, f".{digest}.{_identity(older)}.again.partial")
    if again and (os.path.lexists(output) or os.path.lexists(partial)):
        with _replacing(output, partial, replacing, writer, again, say) as rows:
            yield rows
        return
    _refuse_existing(output)
    if resume and os.path.lexists(replacing) and os.path.lexists(partial):
        raise UsageError(
            f"{replacing}: holds rows of an interrupted --retry-failed; repeat --retry-failed, or remove the file"
        )
    if resume and not os.path.lexists(partial) and (others := _partials(output)):
        raise UsageError(
            f"{others[0]}: cannot resume: another bundle, engine, decoding policy or format gave its rows; without "
            "--resume a new run starts and this file stays"
        )
    is_new = not os.path.lexists(partial)
    with _opened(output, partial) as file:
        with _in_words(output, partial):
            _lock(file, output, partial, say, is_new=is_new)
            # Another run may have finished or stopped between our opening and our locking the file.
            _refuse_existing(output)
            if not resume and file.seek(0, os.SEEK_END) > len(writer.header().encode()):
                remedy = "remove it to start again" if writer.form[0] == "table" else "pass --resume to continue it"
                raise UsageError(f"{partial}: holds the rows of an interrupted run; {remedy}")
            rows = RowFile(file, writer, output)
        with _kept_if_any(rows, partial):
            yield rows
        _publish_new(file, partial, output)


def _identity(path: Path) -> str:
    """Return a digest of the file's inode, size and time: rows started for another file do not belong to this one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return "none"
    return sha256(repr((status.st_ino, status.st_size, status.st_mtime_ns)).encode())[:12]


@contextmanager
def _replacing(
    output: Path, partial: Path, replacing: Path, writer: RowWriter, codes: frozenset[str], say: Say
) -> Iterator[RowFile]:
    """Yield a file that replaces older rows, complete or interrupted, once each row is copied or retried."""
    is_whole, is_new = os.path.lexists(output), not os.path.lexists(replacing)
    older = _Older(path=output if is_whole else partial, is_whole=is_whole, codes=codes)
    with _opened_older(output, older) as source, _opened(output, replacing) as file:
        with _in_words(output, replacing):
            if not is_whole:
                _lock(source, output, partial, say, is_new=False)
            _lock(file, output, replacing, say, is_new=is_new)
            rows = RowFile(file, writer, output, older)
        with _kept_if_any(rows, replacing):
            yield rows
            rows.finish()
        if not is_whole:
            _publish_new(file, replacing, output)
            partial.unlink(missing_ok=True)
            return
        if not os.path.lexists(output) or not os.path.samestat(os.fstat(source.fileno()), output.lstat()):
            raise UsageError(f"{output}: was replaced by another program during this run; all rows are in {replacing}")
        with _in_words(output, replacing):
            os.fsync(file.fileno())
            replacing.replace(output)
        _sync_name(output)


def _opened(output: Path, path: Path, mode: Literal["r+b", "a+b"] = "a+b") -> FileIO:
    try:
        return open_working(path, mode)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error


def _opened_older(output: Path, older: _Older) -> FileIO | BinaryIO:
    # A complete file is only read; it may be read-only.
    if not older.is_whole:
        return _opened(output, older.path, "r+b")
    try:
        return open_input(older.path)
    except OSError as error:
        raise UsageError(f"{output}: cannot be read: {error.strerror}") from error


def _reading(path: Path) -> BufferedReader:
    return BufferedReader(open_working(path, "rb"))


@contextmanager
def _kept_if_any(rows: RowFile, place: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not rows.outcomes:
            place.unlink()
        raise


def _publish_new(file: FileIO, place: Path, output: Path) -> None:
    with _in_words(output, place):
        os.fsync(file.fileno())
        try:
            rename_new(place, output)
        except FileExistsError as error:
            raise UsageError(
                f"{output}: was created by another program during this run; all rows are in {place}"
            ) from error
    _sync_name(output)


def _sync_name(output: Path) -> None:
    try:
        sync_directory(output.parent)
    except OSError as error:
        raise OutputError(
            f"{output}: is complete, but its name may be lost in a power failure: {output.parent} cannot be synced: "
            f"{error.strerror}"
        ) from error


def whole_rows(output: Path, writer: RowWriter) -> Iterator[WrittenRow]:
    """Yield the rows of a complete file; raises UsageError if it is not a file of this format."""
    if not output.is_file():
        raise UsageError(f"{output}: is not a regular file; choose another --output")
    end = 0
    with open_input(output) as file:
        for row, row_end in read_rows(file, writer, output):
            end = row_end
            if row is not None:
                yield row
    if end != output.stat().st_size:
        raise UsageError(
            f"{output}: exists, but from byte {end:,} on it holds no rows of this format; choose another --output"
        )


def _partials(output: Path) -> list[Path]:
    ending = re.compile(r"\.[0-9a-f]{12}\.partial$")
    return sorted(
        path
        for path in output.parent.iterdir()
        if (found := ending.search(path.name)) is not None and path == hidden_beside(output, found[0])
    )


@contextmanager
def _in_words(output: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}; the rows so far are in {partial}") from error


def _refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise UsageError(f"{output}: already exists; choose another --output")


def _lock(file: FileIO | BinaryIO, output: Path, place: Path, say: Say, *, is_new: bool) -> None:
    try:
        taken = is_taken(file, output, say)
    except OSError:
        if is_new and not file.seek(0, os.SEEK_END):
            place.unlink(missing_ok=True)
        raise
    if taken:
        raise UsageError(f"{output}: another run is writing it; wait for it to end, or choose another --output")
    if not os.path.lexists(place) or not os.path.samestat(os.fstat(file.fileno()), place.lstat()):
        raise UsageError(f"{output}: another run has just stopped writing it; repeat the command")
