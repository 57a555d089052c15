"""A run on disk, whole, in one file from which it goes on as if it had never stopped: RUN/checkpoint.safetensors.

The tensors are those of `Learner.state_dict`: the network's (`network.conv1.weight`), what the optimiser keeps of
each, and their running mean where there is one. The metadata has one entry, `alexnet-deploy-checkpoint`, a JSON
object: the `Checkpoint`. It holds no state of a random generator, since every draw is made from the seed, the epoch
and the step; nor of the schedule, which follows from the epochs' metrics.

Format versions: 2 has a digest of its tensors, 3 has one of its header too (core/model/tensor_file.py), 4 has the
recipe's names of now. All are read.
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
    UnknownVersionError,
    digest_of,
    open_tensors,
    seal_text,
)
from alexnet_deploy.core.model.weights import CHECKPOINT_KEY, CHECKPOINT_SEALED_FROM, CHECKPOINT_VERSIONS, EpochMetrics
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.train.recipe import Recipe, with_new_names
from alexnet_deploy.train.runtime.placement import Machine

CHECKPOINT = "checkpoint.safetensors"
FORMAT_VERSION = CHECKPOINT_VERSIONS[-1]


class Position(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a run stands: with its tensors, all that the next step depends on."""

    epoch: int = 1
    """The epoch under way; one more than the recipe has, at the end."""
    step: int = 0
    """How many of its steps are done."""
    loss_sum: float = 0.0
    """Of the loss over the images of those steps."""
    epochs: tuple[EpochMetrics, ...] = ()
    """Those that are over."""
    best_epoch: int = 0
    """The one with the best validation error; 0 before there is one."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Validation images by true class (row) and first guess (column), at the best epoch."""
    epoch_seconds: float = 0.0
    """What those steps of the epoch took."""
    seconds: float = 0.0
    """What the whole run has taken."""

    def __post_init__(self) -> None:
        if self.epoch < 1 or self.step < 0:
            raise ValueError(f"no run stands at epoch {self.epoch}, step {self.step}")
        numbers = [metrics.epoch for metrics in self.epochs]
        if numbers != list(range(1, self.epoch)):
            raise ValueError(f"epoch {self.epoch} is under way, and {numbers} are over")
        if not 0 <= self.best_epoch < self.epoch:
            raise ValueError(f"the best epoch is {self.best_epoch}, and {self.epoch} is under way")
        if not (math.isfinite(self.loss_sum) and 0 <= self.epoch_seconds < math.inf and 0 <= self.seconds < math.inf):
            raise ValueError("its loss or its times are not finite, or a time is negative")


class RunIdentity(Struct, frozen=True, kw_only=True):
    """What two parts of one run are equal in: with it, equal bits."""

    architecture: Architecture
    """With the data's classes."""
    recipe: Recipe
    data_sha256: str
    """Of the images and their split."""
    decoding: int = msgspec.field(default_factory=lambda: DECODING_VERSION)
    """Version of the decoding policy that the images are read by."""
    columns: bool
    """Whether the network is two columns."""
    machine: Machine


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a checkpoint but the tensors."""

    format_version: int
    architecture: Architecture
    """The full table, with its classes."""
    recipe: Recipe
    data: str
    """The folder that is trained on, absolute."""
    data_sha256: str
    decoding: int = 1
    """Version of the decoding policy that the images are read by."""
    machine: Machine
    columns: bool = False
    """Whether the tensors are those of two columns."""
    position: Position
    tools: dict[str, str]
    tensors_sha256: str = ""
    """Digest of the tensors' names, shapes and bytes."""
    header_sha256: str = ""
    """Digest of this record with 64 zeros here; save_checkpoint fills it in."""

    def __post_init__(self) -> None:
        if self.position.epoch > self.recipe.epochs + 1:
            raise ValueError(f"epoch {self.position.epoch} is under way, and the recipe has {self.recipe.epochs}")
        rows, num_classes = self.position.confusion, self.architecture.num_classes
        if rows and [len(row) for row in rows] != [num_classes] * num_classes:
            raise ValueError(f"its confusion matrix is not one of {counted(num_classes, 'class', 'classes')}")

    @property
    def identity(self) -> RunIdentity:
        """What a run that goes on from here must be equal in."""
        return RunIdentity(
            architecture=self.architecture,
            recipe=self.recipe,
            data_sha256=self.data_sha256,
            decoding=self.decoding,
            columns=self.columns,
            machine=self.machine,
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the file in one rename; raises OSError, and then leaves what was there."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = digest_of({name: tensor.numpy() for name, tensor in stored.items()})
    whole = msgspec.structs.replace(
        checkpoint, format_version=FORMAT_VERSION, tensors_sha256=digest, header_sha256=BLANK
    )
    write_atomically(path, safetensors.torch.save(stored, metadata={CHECKPOINT_KEY: seal_text(whole)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read all of a checkpoint but its tensors; raises TrainingError where there is none or an unknown one."""
    try:
        with open_tensors(path) as file:
            text = file.text(CHECKPOINT_KEY, CHECKPOINT_VERSIONS, CHECKPOINT_SEALED_FROM)
        return msgspec.convert(_with_new_names(from_json(text, dict[str, object])), Checkpoint)
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: there is no such file to resume from") from error
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror or error}") from error
    except TensorFileError as error:
        raise TrainingError(f"{path}: is no safetensors file, or a damaged one: {error}") from error
    except KeyError as error:
        raise TrainingError(f"{path}: a safetensors file, but no checkpoint: no {CHECKPOINT_KEY!r} in it") from error
    except UnknownVersionError as error:
        raise TrainingError(
            f"{path}: checkpoint format {error.version}, where this program reads "
            f"{', '.join(map(str, CHECKPOINT_VERSIONS[:-1]))} and {FORMAT_VERSION}"
        ) from error
    except (msgspec.DecodeError, UsageError) as error:
        raise TrainingError(f"{path}: its header cannot be read: {error}") from error


def _with_new_names(header: dict[str, object]) -> dict[str, object]:
    recipe = header.get("recipe")
    return header | {"recipe": with_new_names(recipe)} if isinstance(recipe, dict) else header


def load_tensors(path: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Read the tensors of a loaded checkpoint; raises TrainingError where they are not those that were saved."""
    try:
        with open_tensors(path) as file:
            read = file.read(checkpoint.tensors_sha256)
    except OSError as error:
        raise TrainingError(f"{path}: its tensors cannot be read: {error.strerror or error}") from error
    except TensorFileError as error:
        raise TrainingError(f"{path}: is damaged: {error}") from error
    return {name: torch.from_numpy(tensor) for name, tensor in read.tensors.items()}


def check_same(path: Path, saved: RunIdentity, wanted: RunIdentity, *, any_machine: bool = False) -> None:
    """Raise where a run would not go on as it began: UsageError, or DataError where it is the images.

    With `any_machine` another one is allowed, which computes other last bits.
    """
    if wanted.architecture != saved.architecture:
        raise UsageError(
            f"{path}: trains {_named(saved.architecture)}, which is not the {_named(wanted.architecture)} asked for; a "
            "run is resumed with what it was begun with"
        )
    for name, was, now in _differences(saved.recipe, wanted.recipe):
        raise UsageError(
            f"{path}: was begun with a recipe whose {name} is {was}, where {now} is asked for; a run is resumed "
            "with what it was begun with"
        )
    if wanted.columns != saved.columns:
        was, now = ("in two columns" if two else "as one network" for two in (saved.columns, wanted.columns))
        raise UsageError(f"{path}: was begun {was}, and cannot go on {now}")
    if wanted.data_sha256 != saved.data_sha256:
        raise DataError(
            f"{path}: was begun on other training and validation images than those there now (their SHA-256 was "
            f"{saved.data_sha256[:12]}, and is {wanted.data_sha256[:12]}): they changed, or an earlier version of this "
            "program split them; restore them, or start a new run"
        )
    if wanted.decoding != saved.decoding:
        raise DataError(
            f"{path}: its run was fed images decoded by policy {saved.decoding}, and this program's is "
            f"{wanted.decoding}, which gives other pixels; start a new run, or resume with the version that began it"
        )
    for name, was, now in _differences(saved.machine, wanted.machine) if not any_machine else ():
        raise UsageError(
            f"{path}: was begun with {name} {was}, where there is {now} now, which gives other last bits; "
            "--any-machine goes on all the same"
        )


def _differences(was: Struct, now: Struct) -> Iterator[tuple[str, object, object]]:
    for name in was.__struct_fields__:
        if getattr(was, name) != getattr(now, name):
            yield name, getattr(was, name), getattr(now, name)


def _named(architecture: Architecture) -> str:
    classes = counted(architecture.num_classes, "class", "classes")
    return f"{architecture.name} of {classes} and {counted(architecture.num_parameters, 'parameter')}"
