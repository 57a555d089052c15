"""The files of a run, which belong together at every moment that a run can be killed at.

RUN/weights.safetensors       the best epoch's weights, as of the newest checkpoint
RUN/checkpoint.safetensors    all that the run needs to go on
RUN/metrics.jsonl             one line an epoch

New best weights are written under another name, then the checkpoint that speaks of them, then they get their name:
where that is cut short, the checkpoint says which weights are meant.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from alexnet_deploy.core.errors import TrainingError, WeightsError
from alexnet_deploy.core.files import sync_directory, write_atomically
from alexnet_deploy.core.locks import is_taken
from alexnet_deploy.core.say import Say, say_nothing
from alexnet_deploy.core.weights import EpochMetrics, Weights, load_weights
from alexnet_deploy.train.checkpoint import CHECKPOINT, Checkpoint, Position, save_checkpoint

BEST = "weights.safetensors"
METRICS = "metrics.jsonl"

_NEXT = ".weights.next.safetensors"
_BEFORE = ".weights.before.safetensors"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The place of one run; its methods raise OSError, and then leave what was there."""

    path: Path
    """An existing directory."""

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch's line."""
        with (self.path / METRICS).open("ab") as file:
            file.write(_line(metrics))

    def save(self, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], best: Weights | None) -> None:
        """Write a checkpoint, and the best weights that it speaks of unless they are there already (None)."""
        if best is not None:
            best.save(self.path / _NEXT)
        save_checkpoint(self.path / CHECKPOINT, checkpoint, tensors)
        if best is not None:
            (self.path / _NEXT).replace(self.path / BEST)
            sync_directory(self.path)

    def save_best(self, best: Weights) -> None:
        """Write best weights that no checkpoint speaks of; those that one speaks of are kept for a resumption."""
        best.save(self.path / _NEXT)
        with suppress(FileNotFoundError):
            (self.path / BEST).replace(self.path / _BEFORE)
        (self.path / _NEXT).replace(self.path / BEST)
        sync_directory(self.path)

    def settle(self, position: Position) -> Weights | None:
        """Make the files be those of a checkpoint's position; return its best weights, None before there are any.

        Raises TrainingError where its best weights are not there.
        """
        for partial in self.path.glob(".*.partial"):
            partial.unlink()
        write_atomically(self.path / METRICS, b"".join(map(_line, position.epochs)))
        candidates = [self.path / name for name in (BEST, _NEXT, _BEFORE)]
        meant = next((path for path in candidates if _best_epoch(path) == position.best_epoch), None)
        if meant is None and position.best_epoch > 0:
            raise TrainingError(
                f"{self.path / BEST}: is not of epoch {position.best_epoch}, the best one by {CHECKPOINT} beside it"
            )
        weights = None
        if meant is not None:
            meant.replace(self.path / BEST)
            weights = load_weights(self.path / BEST).weights
        for path in candidates[1:]:
            path.unlink(missing_ok=True)
        return weights if position.best_epoch > 0 else None


@contextmanager
def holding(path: Path, say: Say = say_nothing) -> Iterator[RunDirectory]:
    """Keep any other process from training in a directory, or say that this is not possible.

    Raises TrainingError where one trains there.
    """
    with (path / _LOCK).open("wb") as file:
        if is_taken(file, path, say):
            raise TrainingError(f"{path}: another process is training there")
        try:
            yield RunDirectory(path=path)
        finally:
            (path / _LOCK).unlink(missing_ok=True)


def _best_epoch(path: Path) -> int | None:
    """Return the epoch that a weights file is of; None where there is no such file, or it does not say."""
    if not path.exists():
        return None
    try:
        record = load_weights(path).weights.training
    except WeightsError:
        return None
    return None if record is None else record.best_epoch


def _line(metrics: EpochMetrics) -> bytes:
    return msgspec.json.encode(metrics) + b"\n"
