"""The epochs of a run as other programs read them, beside metrics.jsonl: RUN/metrics.csv, RUN/tensorboard/.

Both are derived from the epochs' metrics: a resumed run writes them anew up to its checkpoint, and continues them.
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
    """A file, or a folder of files, that has something for each epoch; its methods raise OSError."""

    def begin(self) -> None:
        """Make it if it is not there, so that a resumed run knows of it."""

    def restart(self, epochs: Sequence[EpochMetrics]) -> None:
        """Replace what is there by these epochs."""

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch."""

    def close(self) -> None:
        """Write what is still to be written."""


class CsvLog:
    """RUN/metrics.csv: a header, and one line an epoch."""

    def __init__(self, path: Path) -> None:
        """Write to the file `path`."""
        self._path = path

    def begin(self) -> None:
        """Write a header if there is no file."""
        if not os.path.lexists(self._path):
            self.restart(())

    def restart(self, epochs: Sequence[EpochMetrics]) -> None:
        """Replace the file by a header and these epochs."""
        write_atomically(self._path, _csv(EpochMetrics.__struct_fields__, *map(msgspec.structs.astuple, epochs)))

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch's line."""
        self.begin()
        with open_working(self._path, "ab") as file:
            file.write(_csv(msgspec.structs.astuple(metrics)))

    def close(self) -> None:
        """Do nothing: every line is written at once."""


class TensorBoardLog:
    """RUN/tensorboard/: event files with a scalar for each field of the metrics, at the epoch's number."""

    def __init__(self, folder: Path) -> None:
        """Write to `folder`; raises ModuleNotFoundError if TensorBoard is not installed."""
        check_log_packages((LogKind.TENSORBOARD,))
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def begin(self) -> None:
        """Make the folder if there is none."""
        make_directory(self._folder)

    def restart(self, epochs: Sequence[EpochMetrics]) -> None:
        """Replace the event files by one of these epochs."""
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
        # So that TensorBoard, running beside, shows the epoch now.
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def is_event_file(path: Path) -> bool:
    """Return whether a path is a file that TensorBoard's writer has named, and no link."""
    return path.name.startswith("events.out.tfevents.") and path.is_file() and not path.is_symlink()


def check_log_packages(kinds: Collection[LogKind]) -> None:
    """Raise ModuleNotFoundError if a log needs a package that is not installed."""
    if LogKind.TENSORBOARD in kinds:
        import torch.utils.tensorboard  # noqa: F401


def logs_in(run: Path, kinds: Collection[LogKind]) -> tuple[EpochLog, ...]:
    """Return the logs that were asked for, and those that an earlier part of the run has begun."""
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
