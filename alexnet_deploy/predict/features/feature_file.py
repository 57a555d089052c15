"""The file of `predict --features`: one row of features per input, in input order.

.npy       float32 (N, D); the row of an input that could not be read is NaN
.parquet   columns path, ok, error, message and features, float32 of a fixed size D; null where an input was not read

Both are written to a hidden file in the same folder, which gets its name when it is complete. Memory does not grow with
the number of rows.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from typing import Protocol

import numpy as np

from alexnet_deploy.core.errors import BackendError, OutputError, UsageError
from alexnet_deploy.core.fs.files import rename_new, sha256, sync_directory
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.opening import MIB, open_input, open_working, write_whole
from alexnet_deploy.core.process.installation import install_command
from alexnet_deploy.engines.registry import installed_module
from alexnet_deploy.predict.features.extraction import Extraction
from alexnet_deploy.predict.output import check_output
from alexnet_deploy.predict.sink import RowFile

ENDINGS = (".npy", ".parquet")

_GROUP_BYTES = 4 * MIB
"""Features of one row group of parquet."""


class FeatureFile(Protocol):
    """A file that takes one extraction after another."""

    def write(self, extraction: Extraction) -> None:
        """Write a row; raises OSError, and UsageError for a file that is complete."""
        ...

    def finish(self) -> None:
        """Write what is still missing; raises OSError."""
        ...

    def close(self) -> None:
        """Release everything but the file."""
        ...


def check_feature_file(place: Path, *, resume: bool) -> None:
    """Raise UsageError for an unknown ending or a place that cannot be written, BackendError for a missing pyarrow.

    With `resume`, the file may be complete already.
    """
    ending = place.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{place}: its extension is not one of {', '.join(ENDINGS)}")
    if resume and not can_resume(place):
        raise UsageError(f"{place}: only .npy can be resumed; leave out --resume, or write .npy")
    if ending == ".parquet" and installed_module(["pyarrow"]) is None:
        raise BackendError(f"{place}: parquet needs pyarrow: run `{install_command('parquet')}`, or write .npy")
    check_output(place, resume=resume, option="--features")


@contextmanager
def open_feature_file(place: Path, size: int, rows: RowFile | None = None) -> Iterator[FeatureFile]:
    """Yield a file for features of `size` numbers; it gets its name at the end.

    After an exception nothing stays without `rows`. With them, which needs an .npy, its rows so far stay, and are
    continued when `rows` are resumed. No other run has the same unfinished file: `rows` are locked, and their hidden
    name has a digest of everything that they depend on.

    Raises UsageError where `place` exists by the end, or holds fewer rows than `rows`; OutputError where the file
    cannot be written.
    """
    num_kept = None if rows is None else rows.outcomes.total()
    if num_kept is not None and os.path.lexists(place):
        # The interrupted run had completed its features, but not yet its rows.
        confirm_features(place, size, num_kept)
        yield _Complete(place)
        return
    belongs_to = os.getpid() if rows is None else _digest_of(rows.place, place)
    hidden = hidden_beside(place, f".{belongs_to}.partial")
    try:
        with open_working(hidden, "r+b" if num_kept is not None and os.path.lexists(hidden) else "xb") as file:
            try:
                with closing(
                    _Npy(place, file, size, num_kept or 0) if can_resume(place) else _Parquet(file, size)
                ) as writer:
                    yield writer
                    writer.finish()
                os.fsync(file.fileno())
                rename_new(hidden, place)
            except BaseException:
                if num_kept is None or file.seek(0, os.SEEK_END) <= len(_npy_header(0, size)):
                    hidden.unlink(missing_ok=True)
                raise
        sync_directory(place.parent)
    except FileExistsError as error:
        remedy = "choose another --features" if rows is None else f"all features are in {hidden}"
        raise UsageError(f"{place}: was created by another program during this run; {remedy}") from error
    except OSError as error:
        raise OutputError(f"{place}: could not be written: {error.strerror or error}") from error


def confirm_features(place: Path, size: int, num_rows: int) -> None:
    """Raise UsageError unless an .npy holds `num_rows` rows of `size` features."""
    header = _npy_header(num_rows, size)
    try:
        with open_input(place) as file:
            found = file.read(len(header))
        if found == header and place.stat().st_size == len(header) + 4 * num_rows * size:
            return
    except OSError as error:
        raise UsageError(f"{place}: cannot be read: {error.strerror}") from error
    raise UsageError(
        f"{place}: does not hold {num_rows:,} rows of {size:,} features, as many rows as --output has; remove both to "
        "start again"
    )


def can_resume(place: Path) -> bool:
    """Return whether an interrupted run can continue with a file of this ending: .npy."""
    return place.suffix.lower() == ".npy"


def _digest_of(rows: Path, place: Path) -> str:
    """Return a digest of the path from a file of features to its rows, which both may move together."""
    there = os.path.relpath(rows.parent.resolve() / rows.name, place.parent.resolve())
    return sha256(os.fsencode(there))[:12]


def _npy_header(num_rows: int, size: int) -> bytes:
    """Return the header of an array float32 (num_rows, size), of the same length for any number of rows."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (num_rows, size)})
    return header.getvalue()


class _Complete:
    """A file that has all of its rows."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def write(self, extraction: Extraction) -> None:
        raise UsageError(
            f"{self._place}: is complete, but the inputs now continue with {extraction.path}; choose another "
            "--features and --output"
        )

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Npy:
    """Rows behind a header whose number of rows is written last."""

    def __init__(self, place: Path, file: FileIO, size: int, num_kept: int) -> None:
        self._file, self._size, self._num_rows = file, size, num_kept
        header = _npy_header(0, size)
        end = len(header) + 4 * num_kept * size if num_kept else 0
        if file.seek(0, os.SEEK_END) < end:
            raise UsageError(
                f"{place}: cannot resume: fewer than the {num_kept:,} rows of --output are left of it; run again "
                "without --resume, and with another --output"
            )
        file.truncate(end)
        file.seek(end)
        if not num_kept:
            write_whole(self._file, header)

    def write(self, extraction: Extraction) -> None:
        features = extraction.features
        row = np.full(self._size, np.nan, "<f4") if features is None else features.astype("<f4", copy=False)
        write_whole(self._file, row.tobytes())
        self._num_rows += 1

    def finish(self) -> None:
        # NumPy leaves room for any number of rows, so it has the length of the first header.
        self._file.seek(0)
        write_whole(self._file, _npy_header(self._num_rows, self._size))

    def close(self) -> None:
        pass


class _Parquet:
    """Row groups of at most 4 MiB of features."""

    def __init__(self, file: FileIO, size: int) -> None:
        import pyarrow
        from pyarrow import parquet

        self._features = pyarrow.list_(pyarrow.float32(), size)
        text = pyarrow.string()
        fields = {"path": text, "ok": pyarrow.bool_(), "error": text, "message": text, "features": self._features}
        self._schema = pyarrow.schema(list(fields.items()))
        self._writer = parquet.ParquetWriter(file, self._schema, use_dictionary=False)
        self._size = size
        self._at_once = max(1, _GROUP_BYTES // (4 * size))
        self._waiting: list[Extraction] = []

    def write(self, extraction: Extraction) -> None:
        self._waiting.append(extraction)
        if len(self._waiting) == self._at_once:
            self._write_group()

    def finish(self) -> None:
        if self._waiting:
            self._write_group()

    def close(self) -> None:
        self._writer.close()

    def _write_group(self) -> None:
        import pyarrow

        rows, self._waiting = self._waiting, []
        empty = np.zeros(self._size, np.float32)
        values = np.concatenate([empty if row.features is None else row.features for row in rows])
        missing = pyarrow.array([row.features is None for row in rows])
        columns = [
            pyarrow.array([row.path for row in rows]),
            pyarrow.array([row.ok for row in rows]),
            pyarrow.array([row.error and row.error.value for row in rows], pyarrow.string()),
            pyarrow.array([row.message or None for row in rows], pyarrow.string()),
            pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), type=self._features, mask=missing),
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema))
