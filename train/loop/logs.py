"""Metrics per epoch in other programs' formats, beside metrics.jsonl: RUN/metrics.csv, RUN/tensorboard/.

A resumed run rewrites both from the metrics in its checkpoint and continues them.
"""

import csv
import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.opening import make_directory, open_working
from alexnet_deploy.core.fs.run_files import CSV, TENSORBOARD, LogKind
from alexnet_deploy.core.model.weights import EpochMetrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EpochLog(Protocol):
    """A file or folder with an entry per epoch; its methods raise OSError."""

    def begin(self) -> None:
        """Create it if it does not exist, so that a resumed run finds it."""

    def restart(self, epochs: Sequence[EpochMetrics]) -> None:
        """Replace its contents by these epochs."""

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch."""

    def close(self) -> None:
        """Write what is buffered, and close it."""


class CsvLog:
    """RUN/metrics.csv: a header and one line per epoch."""

    def __init__(self, path: Path) -> None:
        """Write to the file `path`."""
        self._path = path

    def begin(self) -> None:
        """Write the header if there is no file."""
        if not os.path.lexists(self._path):
            self.restart(())

    def restart(self, epochs: Sequence[EpochMetrics]) -> None:
        """Replace the file by the header and these epochs."""
        write_atomically(self._path, _csv(EpochMetrics.__struct_fields__, *map(msgspec.structs.astuple, epochs)))

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch's line."""
        self.begin()
        with open_working(self._path, "ab") as file:
            file.write(_csv(msgspec.structs.astuple(metrics)))

    def close(self) -> None:
        """Do nothing: every line is written immediately."""


class TensorBoardLog:
    """RUN/tensorboard/: event files with one scalar per metric; the step is the epoch."""

    def __init__(self, folder: Path) -> None:
        """Write to `folder`; raises ModuleNotFoundError if TensorBoard is not installed."""
        check_log_packages((LogKind.TENSORBOARD,))
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def begin(self) -> None:
        """Create the folder if it does not exist."""
        make_directory(self._folder)

    def restart(self, epochs: Sequence[EpochMetrics]) -> None:
        """Replace the event files by one with these epochs."""
        self.close()
        self.begin()
        for entry in self._folder.iterdir():
            if is_event_file(entry):
                entry.unlink()
        for metrics in epochs:
            self.add(metrics)

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch's scalars."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder))
        for name, value in msgspec.structs.asdict(metrics).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, metrics.epoch)
        # So that a running TensorBoard shows the epoch immediately.
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def is_event_file(path: Path) -> bool:
    """Return whether a path is a regular file with the name of a TensorBoard event file."""
    return path.name.startswith("events.out.tfevents.") and path.is_file() and not path.is_symlink()


def check_log_packages(kinds: Collection[LogKind]) -> None:
    """Raise ModuleNotFoundError if a log needs a package that is not installed."""
    if LogKind.TENSORBOARD in kinds:
        import torch.utils.tensorboard  # noqa: F401


def logs_in(run: Path, kinds: Collection[LogKind]) -> tuple[EpochLog, ...]:
    """Return the requested logs and those that an earlier part of the run created."""
    logs: list[EpochLog] = []
    if LogKind.CSV in kinds or os.path.lexists(run / CSV):
        logs.append(CsvLog(run / CSV))
    if LogKind.TENSORBOARD in kinds or os.path.lexists(run / TENSORBOARD):
        logs.append(TensorBoardLog(run / TENSORBOARD))
    return tuple(logs)


def _csv(*rows: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
