"""The files of a run; they are consistent whenever the run is killed.

RUN/weights.safetensors       the best epoch's weights, as of the newest checkpoint
RUN/checkpoint.safetensors    all that the run needs to resume
RUN/metrics.jsonl             one line per epoch; on request also metrics.csv, tensorboard/

New best weights are first written under a temporary name, then the checkpoint that refers to them, then they are
renamed: if the run is killed in between, the checkpoint says which weights are valid.
"""

import errno
import shlex
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from alexnet_deploy.core.errors import TrainingError, UsageError, WeightsError
from alexnet_deploy.core.fs.files import sync_directory, write_atomically
from alexnet_deploy.core.fs.hidden import temporary_prefix
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import open_working, refuse_directory, replace_file
from alexnet_deploy.core.fs.room import missing_room
from alexnet_deploy.core.fs.run_files import CSV, REPORT, TENSORBOARD, LogKind
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.weights import EpochMetrics, Weights, load_weights
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, Checkpoint, Position, load_checkpoint, save_checkpoint
from alexnet_deploy.train.loop.logs import EpochLog, is_event_file, logs_in
from alexnet_deploy.train.recipe import Recipe

BEST = "weights.safetensors"
METRICS = "metrics.jsonl"

_NEXT = ".weights.next.safetensors"
_BEFORE = ".weights.before.safetensors"
_LOCK = ".lock"
_BEGUN = ".alexnet-deploy-train"
"""Created first, deleted with the first checkpoint or weights: it marks files of a run that has neither."""

# ext4 creates it at the root of each file system, such as a mounted volume.
_OF_THE_FILE_SYSTEM = "lost+found"

# For names, recipe and metrics: 4 to 20 kB.
_HEADER_BYTES = 1 << 15

_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space in your quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EIO: "check the disk",
    errno.EEXIST: "remove the entry of that name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The directory of one run; methods raise OSError if it cannot be written, and then change nothing."""

    path: Path
    """An existing directory."""
    logs: tuple[EpochLog, ...] = ()
    """Logs beside metrics.jsonl."""

    def add(self, metrics: EpochMetrics) -> None:
        """Add an epoch's line."""
        with open_working(self.path / METRICS, "ab") as file:
            file.write(_line(metrics))
        for log in self.logs:
            log.add(metrics)

    def save(self, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], best: Weights | None) -> None:
        """Write a checkpoint and the best weights that it refers to; None if those are already saved.

        If only the checkpoint cannot be written (OSError), the weights are kept as by save_best.
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
        (self.path / _BEGUN).unlink(missing_ok=True)
        if best is not None:
            replace_file(self.path / _NEXT, self.path / BEST)
            sync_directory(self.path)

    def save_best(self, best: Weights) -> None:
        """Write best weights that no checkpoint refers to; keep those that one refers to for resuming."""
        best.save(self.path / _NEXT)
        self._publish_next()

    def _publish_next(self) -> None:
        with suppress(FileNotFoundError):
            replace_file(self.path / BEST, self.path / _BEFORE)
        replace_file(self.path / _NEXT, self.path / BEST)
        (self.path / _BEGUN).unlink(missing_ok=True)
        sync_directory(self.path)

    def settle(self, position: Position) -> Weights | None:
        """Restore the files to a checkpoint's position; return its best weights, None if there are none yet.

        Raises TrainingError if its best weights are missing.
        """
        for partial in _partials(self.path):
            refuse_directory(partial)
            partial.unlink()
        write_atomically(self.path / METRICS, b"".join(map(_line, position.epochs)))
        for log in self.logs:
            log.restart(position.epochs)
        candidates = [self.path / name for name in (BEST, _NEXT, _BEFORE)]
        meant = next((path for path in candidates if _best_epoch(path) == position.best_epoch), None)
        if meant is None and position.best_epoch > 0:
            raise TrainingError(
                f"{self.path / BEST}: is not of epoch {position.best_epoch}, the best epoch in {CHECKPOINT}"
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
        """Raise TrainingError if the disk has too little space for what a run of this recipe has yet to write.

        At most two checkpoints and two weights files exist at once: the old ones and their replacements.
        """
        needed = 2 * (_weights_bytes(architecture) + _checkpoint_bytes(architecture, recipe))
        try:
            there = sum(path.stat().st_size for path in self.path.glob("*.safetensors"))
            problem = missing_room(self.path, needed - there)
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot read the free space: {error.strerror or error}") from error
        if problem:
            raise TrainingError(problem)

    def standing(self, error: OSError) -> str:
        """Return what is saved here after a failed write, and how to continue: the end of an error sentence."""
        remedy = _REMEDIES.get(error.errno or 0, "make it writable")
        best = _best_epoch(self.path / BEST)
        weights = "" if best is None else f"the {_of_epoch(best)} are in {self.path / BEST}"
        try:
            position = load_checkpoint(self.path / CHECKPOINT).position
        except TrainingError:
            kept = f"{weights}, but there is no checkpoint" if weights else "no weights and no checkpoint are saved"
            return f"{kept} yet; {remedy}, then train again into another --out"
        checkpoint = f"the checkpoint of epoch {position.epoch}, step {position.step} is intact"
        resume = f"alexnet-deploy train --resume --out {shlex.quote(str(self.path))}"
        return f"{checkpoint}{weights and f' and {weights}'}; {remedy}, then run `{resume}`"


@contextmanager
def holding(
    path: Path, say: Say = say_nothing, kinds: Collection[LogKind] = (), *, begins: bool = False
) -> Iterator[RunDirectory]:
    """Lock a directory against other training processes, or say that it cannot be locked; `kinds` are its logs.

    If a new run `begins`, files of a run without a checkpoint are removed first. Raises TrainingError if another
    process trains there, and UsageError as refuse_foreign does.
    """
    with open_working(path / _LOCK, "ab") as file:
        if is_taken(file, path, say):
            raise TrainingError(f"{path}: another process is training there; choose another --out")
        try:
            if begins:
                _begin(path)
            logs = logs_in(path, kinds)
            with ExitStack() as stack:
                for log in logs:
                    stack.callback(log.close)
                yield RunDirectory(path=path, logs=logs)
        finally:
            if begins:
                _end_unbegun(path)
            (path / _LOCK).unlink(missing_ok=True)


def refuse_foreign(path: Path) -> None:
    """Raise UsageError if a new run cannot start in an existing directory; removes nothing.

    It can start in an empty directory, and in one with only the files of a killed run without a checkpoint. Raises
    TrainingError if another process trains there or the directory cannot be read.
    """
    try:
        _left_behind(path)
        if (path / _LOCK).exists():
            with open_working(path / _LOCK, "ab") as file:
                if is_taken(file, path, say_nothing):
                    raise TrainingError(f"{path}: another process is training there; choose another --out")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror or error}") from error


def _begin(path: Path) -> None:
    for left in _left_behind(path):
        if left.is_dir():
            left.rmdir()
        else:
            left.unlink()
    if not (path / _BEGUN).exists():
        open_working(path / _BEGUN, "xb").close()


def _end_unbegun(path: Path) -> None:
    """Remove the mark of a new run that wrote nothing."""
    if {entry.name for entry in path.iterdir()} <= {_LOCK, _BEGUN, _OF_THE_FILE_SYSTEM}:
        (path / _BEGUN).unlink(missing_ok=True)


def _left_behind(path: Path) -> list[Path]:
    """Return the files that a run without a checkpoint left in a directory; contents of a folder before the folder.

    Raises UsageError if there is anything else.
    """
    entries = sorted(entry for entry in path.iterdir() if entry.name not in (_LOCK, _BEGUN, _OF_THE_FILE_SYSTEM))
    is_begun = (path / _BEGUN).is_file() and not (path / _BEGUN).is_symlink()
    files = {path / name for name in (METRICS, CSV, _NEXT, _BEFORE)} | set(_partials(path))
    found: list[Path] = []
    for entry in entries:
        within: list[Path] = []
        if entry == path / TENSORBOARD and entry.is_dir() and not entry.is_symlink():
            within = sorted(entry.iterdir())
            strange = next((inner for inner in within if not is_event_file(inner)), None)
        else:
            strange = None if entry in files and entry.is_file() and not entry.is_symlink() else entry
        if strange is not None or not is_begun:
            raise UsageError(
                f"{path}: contains {(strange or entry).relative_to(path)} but no {CHECKPOINT}, so it is neither empty "
                "nor a run to resume; choose another --out"
            )
        found += [*within, entry]
    return found


def _partials(path: Path) -> list[Path]:
    """Return the partially written files that a killed run left in its directory."""
    names = (BEST, CHECKPOINT, METRICS, CSV, REPORT, _NEXT, _BEFORE)
    prefixes = tuple(temporary_prefix(path / name) for name in names)
    return sorted(entry for entry in path.glob(".*.partial") if entry.name.startswith(prefixes))


def _best_epoch(path: Path) -> int | None:
    """Return the epoch of a weights file; None if there is no such file or it has no training record."""
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
    # Four bytes per parameter; the header has the confusion matrix, whose entries are mostly one digit and a comma.
    return 4 * architecture.num_parameters + 2 * architecture.num_classes**2 + _HEADER_BYTES


def _checkpoint_bytes(architecture: Architecture, recipe: Recipe) -> int:
    num_moments = 2 if recipe.optimiser == "adamw" else int(recipe.momentum > 0)
    num_copies = num_moments + int(recipe.ema_decay > 0)
    return _weights_bytes(architecture) + num_copies * 4 * architecture.num_parameters


def _line(metrics: EpochMetrics) -> bytes:
    return msgspec.json.encode(metrics) + b"\n"
