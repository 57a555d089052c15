"""A run's complete state in one file, from which it resumes exactly: RUN/checkpoint.safetensors.

The tensors are those of `Learner.state_dict`: the network's (`network.conv1.weight`), the optimiser's state, and the
moving average of the weights, if there is one. The metadata has one entry, `alexnet-deploy-checkpoint`: the
`Checkpoint` as JSON. It has no state of random generators, which derive from the seed, the epoch and the step, and none
of the schedule, which follows from the metrics of the epochs.

Format versions: 2 adds a digest of the tensors, 3 one of the header (core/model/tensor_file.py), 4 has the current
names of recipe fields, 5 the start of a fine-tuning run. All are read.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from msgspec import Struct

from alexnet_deploy.core.errors import DataError, TrainingError, UsageError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.model.tensor_file import (
    BLANK,
    TensorFileError,
    digest_of,
    open_tensors,
    seal_text,
)
from alexnet_deploy.core.model.weights import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_KEY,
    CHECKPOINT_SEALED_FROM,
    CHECKPOINT_VERSIONS,
    EpochMetrics,
)
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.records import UnknownVersionError
from alexnet_deploy.train.recipe import Recipe, with_new_names
from alexnet_deploy.train.runtime.placement import Machine
from alexnet_deploy.train.start import Basis

CHECKPOINT = "checkpoint.safetensors"
FORMAT_VERSION = CHECKPOINT_VERSIONS[-1]


class Position(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Progress of a run; with the tensors, all that the next step depends on."""

    epoch: int = 1
    """Current epoch; at the end one more than the recipe's epochs."""
    step: int = 0
    """Finished steps of this epoch."""
    loss_sum: float = 0.0
    """Sum of the loss over the images of those steps."""
    epochs: tuple[EpochMetrics, ...] = ()
    """Metrics of the finished epochs."""
    best_epoch: int = 0
    """The epoch with the best validation error; 0: none yet."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Confusion matrix of the validation images at the best epoch: true class (row), top-1 prediction (column)."""
    epoch_seconds: float = 0.0
    """Duration of the finished steps of this epoch."""
    seconds: float = 0.0
    """Duration of the run so far."""

    def __post_init__(self) -> None:
        if self.epoch < 1 or self.step < 0:
            raise ValueError(f"the position is epoch {self.epoch}, step {self.step}, but they start at epoch 1, step 0")
        numbers = [metrics.epoch for metrics in self.epochs]
        if numbers != list(range(1, self.epoch)):
            raise ValueError(f"the current epoch is {self.epoch}, but the finished epochs are {numbers}")
        if not 0 <= self.best_epoch < self.epoch:
            raise ValueError(f"the best epoch is {self.best_epoch}, but the current epoch is {self.epoch}")
        if not (math.isfinite(self.loss_sum) and 0 <= self.epoch_seconds < math.inf and 0 <= self.seconds < math.inf):
            raise ValueError("the loss or a time is not finite, or a time is negative")


class RunIdentity(Struct, frozen=True, kw_only=True):
    """What must be equal for a resumed run to be bit-identical."""

    architecture: Architecture
    """With the number of classes of the data."""
    recipe: Recipe
    data_sha256: str
    """Digest of the images and their split."""
    decoding: int = msgspec.field(default_factory=lambda: DECODING_VERSION)
    """Version of the decoding policy of the images."""
    columns: bool
    """Whether the network is split into two columns."""
    start: Basis | None = None
    """The file that the run started from, and the layers that it does not change."""
    machine: Machine


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint without its tensors."""

    format_version: int
    architecture: Architecture
    """The full table of layers, with the number of classes."""
    recipe: Recipe
    data: str
    """Absolute path of the training data."""
    data_sha256: str
    decoding: int = 1
    """Version of the decoding policy of the images."""
    machine: Machine
    columns: bool = False
    """Whether the network was split into two columns."""
    start: Basis | None = None
    """The start of a run that began with trained weights."""
    position: Position
    tools: dict[str, str]
    tensors_sha256: str = ""
    """Digest of the tensors' names, shapes and bytes."""
    header_sha256: str = ""
    """Digest of this record with 64 zeros in this field; save_checkpoint sets it."""

    def __post_init__(self) -> None:
        if self.position.epoch > self.recipe.epochs + 1:
            raise ValueError(f"the current epoch is {self.position.epoch}, but the recipe has {self.recipe.epochs}")
        rows, num_classes = self.position.confusion, self.architecture.num_classes
        if rows and [len(row) for row in rows] != [num_classes] * num_classes:
            raise ValueError(f"the confusion matrix is not of {counted(num_classes, 'class', 'classes')}")

    @property
    def identity(self) -> RunIdentity:
        """What a run that resumes from here must share with it."""
        return RunIdentity(
            architecture=self.architecture,
            recipe=self.recipe,
            data_sha256=self.data_sha256,
            decoding=self.decoding,
            columns=self.columns,
            start=self.start,
            machine=self.machine,
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the file atomically; on OSError the old file is unchanged."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of({name: tensor.numpy() for name, tensor in stored.items()})
    whole = msgspec.structs.replace(
        checkpoint, format_version=FORMAT_VERSION, tensors_sha256=digest, header_sha256=BLANK
    )
    write_atomically(path, safetensors.torch.save(stored, metadata={CHECKPOINT_KEY: seal_text(whole)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without its tensors; raises TrainingError if it is missing, damaged or not supported."""
    try:
        with open_tensors(path) as file:
            text = file.text(CHECKPOINT_KEY, CHECKPOINT_FORMAT, CHECKPOINT_VERSIONS, CHECKPOINT_SEALED_FROM)
        return msgspec.convert(_with_new_names(from_json(text, dict[str, object])), Checkpoint)
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: no checkpoint to resume from: no such file") from error
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror or error}") from error
    except TensorFileError as error:
        raise TrainingError(f"{path}: is not a safetensors file, or it is damaged: {error}") from error
    except KeyError as error:
        raise TrainingError(f"{path}: is not a checkpoint: it has no entry {CHECKPOINT_KEY!r}") from error
    except UnknownVersionError as error:
        raise TrainingError(f"{path}: {error}") from error
    except (msgspec.DecodeError, UsageError) as error:
        raise TrainingError(f"{path}: its header cannot be read: {error}") from error


def _with_new_names(header: dict[str, object]) -> dict[str, object]:
    recipe = header.get("recipe")
    return header | {"recipe": with_new_names(recipe)} if isinstance(recipe, dict) else header


def load_tensors(path: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Read the tensors of a loaded checkpoint; raises TrainingError if they differ from those that were saved."""
    try:
        with open_tensors(path) as file:
            read = file.read(checkpoint.tensors_sha256)
    except OSError as error:
        raise TrainingError(f"{path}: its tensors cannot be read: {error.strerror or error}") from error
    except TensorFileError as error:
        raise TrainingError(f"{path}: is damaged: {error}") from error
    return {name: torch.from_numpy(tensor) for name, tensor in read.tensors.items()}


def check_same(path: Path, saved: RunIdentity, wanted: RunIdentity, *, any_machine: bool = False) -> None:
    """Raise UsageError, or DataError about the images, if resuming would not continue the same run.

    `any_machine` allows another machine, on which results are not bit-identical.
    """
    if wanted.architecture != saved.architecture:
        raise UsageError(
            f"{path}: cannot resume: the run trains {_named(saved.architecture)}, but "
            f"{_named(wanted.architecture)} was requested; request the same architecture"
        )
    for name, was, now in _differences(saved.recipe, wanted.recipe):
        raise UsageError(
            f"{path}: cannot resume: the run's recipe has {name} {was}, but {now} was requested; request the same "
            "recipe"
        )
    if wanted.columns != saved.columns:
        was, now = ("in two columns" if two else "as one network" for two in (saved.columns, wanted.columns))
        raise UsageError(f"{path}: cannot resume: the run was started {was}, but {now} was requested")
    _check_start(path, saved.start, wanted.start)
    if wanted.data_sha256 != saved.data_sha256:
        raise DataError(
            f"{path}: cannot resume: the training or validation images are not those of the run (SHA-256 "
            f"{saved.data_sha256[:12]} then, {wanted.data_sha256[:12]} now): they changed, or an earlier version of "
            "this program split them; restore them, or start a new run"
        )
    if wanted.decoding != saved.decoding:
        raise DataError(
            f"{path}: cannot resume: the run's images were decoded by policy {saved.decoding}, but this program "
            f"decodes by policy {wanted.decoding}, which gives different pixels; start a new run, or resume with the "
            "version that started it"
        )
    for name, was, now in _differences(saved.machine, wanted.machine) if not any_machine else ():
        raise UsageError(
            f"{path}: cannot resume: the run was started with {name} {was} and now has {name} {now}: results would "
            "not be bit-identical; pass --any-machine to resume anyway"
        )


def _check_start(path: Path, saved: Basis | None, wanted: Basis | None) -> None:
    if saved is None or wanted is None:
        if saved is not wanted:
            was, now = ("with random layers" if basis is None else _start_words(basis) for basis in (saved, wanted))
            raise UsageError(f"{path}: cannot resume: the run was started {was}, but {now} was requested")
        return
    if saved.record.sha256 != wanted.record.sha256:
        raise UsageError(
            f"{path}: cannot resume: the run was started {_start_words(saved)}, but {_start_words(wanted)} was "
            "requested; pass the same --from, or none"
        )
    for what, before, after in (
        ("frozen", saved.record.frozen, wanted.record.frozen),
        ("new", saved.record.new_layers, wanted.record.new_layers),
    ):
        if before != after:
            raise UsageError(
                f"{path}: cannot resume: the run's {what} layers are {', '.join(before) or 'none'}, but "
                f"{', '.join(after) or 'none'} was requested"
            )
    if saved.preprocessing != wanted.preprocessing:
        raise UsageError(
            f"{path}: cannot resume: the preprocessing of {saved.record.file} was read differently when the run was "
            "started; resume without --from"
        )


def _start_words(basis: Basis) -> str:
    return f"from {basis.record.file} (SHA-256 {basis.record.sha256[:12]})"


def _differences(was: Struct, now: Struct) -> Iterator[tuple[str, object, object]]:
    for name in was.__struct_fields__:
        if getattr(was, name) != getattr(now, name):
            yield name, getattr(was, name), getattr(now, name)


def _named(architecture: Architecture) -> str:
    classes = counted(architecture.num_classes, "class", "classes")
    return f"{architecture.name} of {classes} and {counted(architecture.num_parameters, 'parameter')}"
