"""Output files of prediction rows: a file gets its name when it is complete, and an interrupted run can be resumed.

Until then the rows are in a hidden file in the same folder, .NAME.DIGEST.partial; each row is written as soon as it is
made. The digest covers everything that the rows depend on, so rows of another bundle or format are never resumed.

With --retry-failed all rows, retried and copied, go to .NAME.DIGEST.again.partial, which replaces the older file at the
end. Both files exist until then, so a retry can be interrupted and resumed too.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Literal

from alexnet_deploy.core.errors import BusyError, OutputError, UsageError
from alexnet_deploy.core.fs.files import rename_new, sha256, sync_directory
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import kind_of, open_input, open_working
from alexnet_deploy.core.fs.room import try_to_write
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.predict.row_formats import RowWriter, WrittenRow, read_rows
from alexnet_deploy.predict.sink import OlderRows, RowFile, append


@contextmanager
def open_row_file(
    output: Path,
    writer: RowWriter,
    depends_on: str,
    *,
    resume: bool,
    again: frozenset[str] = frozenset(),
    is_resumable: bool = True,
    say: Say = say_nothing,
) -> Iterator[RowFile]:
    """Yield a file of rows that becomes `output` at the end; after an exception the rows stay in a hidden file.

    `depends_on` names everything but their format that the rows depend on. With `resume` the rows of an interrupted run
    are kept, if there are any. With error codes in `again`, which needs `resume`, `output` may also be complete, and
    the rows with such an error are replaced. `is_resumable` is false if something else than the format of the rows
    rules out `resume`.

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
                can_resume = is_resumable and writer.form[0] != "table"
                remedy = "pass --resume to continue it" if can_resume else "remove it to start again"
                raise UsageError(f"{partial}: holds the rows of an interrupted run; {remedy}")
            rows = RowFile(file, writer, output)
        with _kept_if_any(rows, partial):
            yield rows
        _publish_new(file, partial, output)


@contextmanager
def writing_whole(output: Path, *, say: Say = say_nothing) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes to a hidden file that becomes `output` at the end.

    After an exception nothing is left. Raises UsageError if `output` exists, cannot be created, is being written by
    another run, or was created during this one; OutputError if the file cannot be written.
    """
    place = hidden_beside(output, ".merge.partial")
    is_new = not os.path.lexists(place)
    with _opened(output, place) as file:
        with _in_words(output, place):
            _lock(file, output, place, say, is_new=is_new)
            _refuse_existing(output)
            # What a killed run left.
            file.truncate(0)
        try:
            yield lambda data: append(file, data, output)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        _publish_new(file, place, output)


def interrupted_rows(output: Path) -> Path | None:
    """Return the hidden file with the rows of an interrupted run; None if there is none."""
    return next(iter(_partials(output)), None) if output.parent.is_dir() else None


def check_output(output: Path, *, resume: bool, option: str = "--output") -> None:
    """Raise UsageError if no file can be written to `output`, before the work that makes it; see open_row_file.

    With `resume`, `output` may be a complete file. `option` names `output` in the errors.
    """
    folder = output.parent
    try:
        if output.exists() and not output.is_file():
            raise UsageError(f"{output}: is {kind_of(output.stat())}, not a regular file; choose another {option}")
        if os.path.lexists(output):
            if not resume:
                _refuse_existing(output, option)
            return
        if not folder.exists() and not any(parent.is_file() for parent in folder.parents):
            raise UsageError(f"{output}: there is no folder {folder}; create it first")
        if not folder.is_dir():
            place = next(parent for parent in (folder, *folder.parents) if parent.exists())
            raise UsageError(f"{output}: {place} is {kind_of(place.stat())}, not a folder; choose another {option}")
        try_to_write(folder)
    except OSError as error:
        raise UsageError(
            f"{output}: no file can be created in {folder}: {error.strerror or error}; choose another {option}"
        ) from error


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
    older = OlderRows(path=output if is_whole else partial, is_whole=is_whole, codes=codes)
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
    except FileNotFoundError as error:
        raise UsageError(f"{output}: there is no folder {output.parent}; create it first") from error
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error


def _opened_older(output: Path, older: OlderRows) -> FileIO | BinaryIO:
    # A complete file is only read; it may be read-only.
    if not older.is_whole:
        return _opened(output, older.path, "r+b")
    try:
        return open_input(older.path)
    except OSError as error:
        raise UsageError(f"{output}: cannot be read: {error.strerror}") from error


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


def _refuse_existing(output: Path, option: str = "--output") -> None:
    if os.path.lexists(output):
        raise UsageError(f"{output}: already exists; choose another {option}")


def _lock(file: FileIO | BinaryIO, output: Path, place: Path, say: Say, *, is_new: bool) -> None:
    try:
        taken = is_taken(file, output, say)
    except OSError:
        if is_new and not file.seek(0, os.SEEK_END):
            place.unlink(missing_ok=True)
        raise
    if taken:
        raise BusyError(f"{output}: another run is writing it; wait for it to end, or choose another --output")
    if not os.path.lexists(place) or not os.path.samestat(os.fstat(file.fileno()), place.lstat()):
        raise BusyError(f"{output}: another run has just stopped writing it; repeat the command")
