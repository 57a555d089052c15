"""The files of a run, which belong together at every moment that a run can be killed at.

RUN/weights.safetensors       the best epoch's weights, as of the newest checkpoint
RUN/checkpoint.safetensors    all that the run needs to go on
RUN/metrics.jsonl             one line an epoch; as asked for also metrics.csv, tensorboard/

New best weights are written under another name, then the checkpoint that speaks of them, then they get their name:
where that is cut short, the checkpoint says which weights are meant.
"""

import errno
import shlex
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from alexnet_deploy.core.errors import TrainingError, UsageError, WeightsError
from alexnet_deploy.core.fs.files import sync_directory, write_atomically
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import open_working, refuse_directory, replace_file
from alexnet_deploy.core.fs.room import missing_room
from alexnet_deploy.core.fs.run_files import CSV, TENSORBOARD, LogKind
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.weights import EpochMetrics, Weights, load_weights
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, Checkpoint, Position, load_checkpoint, save_checkpoint
from alexnet_deploy.train.loop.logs import EpochLog, logs_in
from alexnet_deploy.train.recipe import Recipe

BEST = "weights.safetensors"
METRICS = "metrics.jsonl"

_NEXT = ".weights.next.safetensors"
_BEFORE = ".weights.before.safetensors"
_LOCK = ".lock"

# Names, recipe and epochs: 4 to 20 kB.
_HEADER_BYTES = 1 << 15

_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space in your quota",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f)",
    errno.EIO: "check the disk",
    errno.EEXIST: "remove what is in the way",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The place of one run; its methods raise OSError if it cannot be written, and then leave what was there."""

    path: Path
    """An existing directory."""
    logs: tuple[EpochLog, ...] = ()
    """Beside metrics.jsonl."""

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch's line."""
        with open_working(self.path / METRICS, "ab") as file:
            file.write(_line(metrics))
        for log in self.logs:
            log.add(metrics)

    def save(self, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], best: Weights | None) -> None:
        """Write a checkpoint, and the best weights that it speaks of unless they are there already (None).

        Where only the checkpoint cannot be written (OSError), these weights are kept as save_best keeps them.
        """
        for log in self.logs:
            log.begin()
        if best is not None:
            best.save(self.path / _NEXT)
        try:
            save_checkpoint(self.path / CHECKPOINT, checkpoint, tensors)
        except OSError:
            if best is not None:
                self._publish_next()
            raise
        if best is not None:
            replace_file(self.path / _NEXT, self.path / BEST)
            sync_directory(self.path)

    def save_best(self, best: Weights) -> None:
        """Write best weights that no checkpoint speaks of; those that one speaks of are kept for a resumption."""
        best.save(self.path / _NEXT)
        self._publish_next()

    def _publish_next(self) -> None:
        with suppress(FileNotFoundError):
            replace_file(self.path / BEST, self.path / _BEFORE)
        replace_file(self.path / _NEXT, self.path / BEST)
        sync_directory(self.path)

    def settle(self, position: Position) -> Weights | None:
        """Make the files be those of a checkpoint's position; return its best weights, None before there are any.

        Raises TrainingError where its best weights are not there.
        """
        for partial in self.path.glob(".*.partial"):
            refuse_directory(partial)
            partial.unlink()
        write_atomically(self.path / METRICS, b"".join(map(_line, position.epochs)))
        for log in self.logs:
            log.restart(position.epochs)
        candidates = [self.path / name for name in (BEST, _NEXT, _BEFORE)]
        meant = next((path for path in candidates if _best_epoch(path) == position.best_epoch), None)
        if meant is None and position.best_epoch > 0:
            raise TrainingError(
                f"{self.path / BEST}: is not of epoch {position.best_epoch}, the best one by {CHECKPOINT} beside it"
            )
        weights = None
        if meant is not None:
            replace_file(meant, self.path / BEST)
            weights = load_weights(self.path / BEST).weights
        for path in candidates[1:]:
            refuse_directory(path)
            path.unlink(missing_ok=True)
        return weights if position.best_epoch > 0 else None

    def check_room(self, architecture: Architecture, recipe: Recipe) -> None:
        """Raise TrainingError if the disk lacks room for what a run of this recipe has yet to write.

        At most there are two checkpoints and two files of weights at once: the old ones and their successors.
        """
        needed = 2 * (_weights_bytes(architecture) + _checkpoint_bytes(architecture, recipe))
        try:
            there = sum(path.stat().st_size for path in self.path.glob("*.safetensors"))
            problem = missing_room(self.path, needed - there)
        except OSError as error:
            raise TrainingError(f"{self.path}: its disk cannot be looked at: {error.strerror or error}") from error
        if problem:
            raise TrainingError(problem)

    def standing(self, error: OSError) -> str:
        """Return what stands here after a write has failed, and how training continues: the end of a sentence."""
        remedy = _REMEDIES.get(error.errno or 0, "make it writable")
        best = _best_epoch(self.path / BEST)
        weights = "" if best is None else f"the {_of_epoch(best)} are in {self.path / BEST}"
        try:
            position = load_checkpoint(self.path / CHECKPOINT).position
        except TrainingError:
            kept = f"{weights}, but there is no checkpoint" if weights else "no weights and no checkpoint are saved"
            return f"{kept} yet; {remedy}, then train again into another --out"
        checkpoint = f"the checkpoint of epoch {position.epoch}, step {position.step} stands"
        resume = f"alexnet-deploy train --resume --out {shlex.quote(str(self.path))}"
        return f"{checkpoint}{weights and f', {weights}'}; {remedy}, then `{resume}` continues"


@contextmanager
def holding(path: Path, say: Say = say_nothing, kinds: Collection[LogKind] = ()) -> Iterator[RunDirectory]:
    """Keep any other process from training in a directory, or say that this is not possible; `kinds` are its logs.

    Raises TrainingError where one trains there.
    """
    with open_working(path / _LOCK, "ab") as file:
        if is_taken(file, path, say):
            raise TrainingError(f"{path}: another process is training there")
        try:
            logs = logs_in(path, kinds)
            with ExitStack() as stack:
                for log in logs:
                    stack.callback(log.close)
                yield RunDirectory(path=path, logs=logs)
        finally:
            (path / _LOCK).unlink(missing_ok=True)


def clear_unbegun(path: Path) -> None:
    """Remove the directory of a run that was killed before its first checkpoint.

    Raises UsageError where anything else lies there, TrainingError where a run is just beginning there or it cannot be
    removed.
    """
    of_a_run = {METRICS, CSV, TENSORBOARD}
    try:
        with holding(path):
            for entry in sorted(path.iterdir()):
                if entry.name not in of_a_run and not entry.name.startswith("."):
                    raise UsageError(
                        f"{path}: has no {CHECKPOINT}, but {entry.name}: not a run that could continue; choose another "
                        "--out"
                    )
            for name in of_a_run:
                if (path / name).is_dir():
                    shutil.rmtree(path / name)
                else:
                    (path / name).unlink(missing_ok=True)
            for hidden in (*path.glob(".*.partial"), path / _NEXT, path / _BEFORE):
                hidden.unlink(missing_ok=True)
        path.rmdir()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be removed: {error.strerror or error}") from error


def _best_epoch(path: Path) -> int | None:
    """Return the epoch that a weights file is of; None where there is no such file, or it does not say."""
    if not path.exists():
        return None
    try:
        record = load_weights(path).weights.training
    except WeightsError:
        return None
    return None if record is None else record.best_epoch


def _of_epoch(epoch: int) -> str:
    return f"weights of epoch {epoch}" if epoch else "weights of an unfinished epoch 1"


def _weights_bytes(architecture: Architecture) -> int:
    # Four bytes a parameter; the header holds the confusion matrix, of which most entries are one digit and a comma.
    return 4 * architecture.num_parameters + 2 * architecture.num_classes**2 + _HEADER_BYTES


def _checkpoint_bytes(architecture: Architecture, recipe: Recipe) -> int:
    num_moments = 2 if recipe.optimiser == "adamw" else int(recipe.momentum > 0)
    num_copies = num_moments + int(recipe.ema_decay > 0)
    return _weights_bytes(architecture) + num_copies * 4 * architecture.num_parameters


def _line(metrics: EpochMetrics) -> bytes:
    return msgspec.json.encode(metrics) + b"\n"
