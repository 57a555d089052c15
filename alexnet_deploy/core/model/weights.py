"""Trained weights on disk: one `.safetensors` file with everything that is needed to use them.

The tensors are float32 and have the table's names (conv1.weight, ..., fc8.bias). The file's metadata has one entry,
`alexnet-deploy`, a JSON object: format_version, architecture (the full table), preprocessing, labels, training, origin,
tools, and digests of the tensors and of this object itself (core/model/tensor_file.py).

Format version 1 has no digests, so a damaged byte may go unnoticed; version 2 has them; version 3 has an origin, the
record of an import; version 4 may have one more tensor, `mean_image`, and says in `training` which file a run started
from. All are read, 4 is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import safetensors.numpy
from msgspec import Struct

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.labels import check_labels
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Preprocessing
from alexnet_deploy.core.model.tensor_file import (
    BLANK,
    DamagedError,
    ReadTensors,
    TensorFile,
    TensorFileError,
    digest_of,
    open_tensors,
    seal_text,
)
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.records import UnknownVersionError

# One entry only: safetensors writes several entries in an order that changes from run to run, and so would the digest.
METADATA_KEY = "alexnet-deploy"
CHECKPOINT_KEY = "alexnet-deploy-checkpoint"
CHECKPOINT_FORMAT = "checkpoint"
"""Name of the format in errors."""
FORMAT_VERSION = 4

CHECKPOINT_VERSIONS = (2, 3, 4, 5)
CHECKPOINT_SEALED_FROM = 3
"""First checkpoint format with a digest of its header."""

_VERSIONS = (1, 2, 3, 4)
_SEALED_FROM = 2

_MEAN_IMAGE = "mean_image"
_MEAN_IMAGE_SHAPE = (3, IMAGE_SIZE, IMAGE_SIZE)

_OF_OTHERS = "`alexnet-deploy import` reads other programs' weights"

RecipeValue: TypeAlias = int | float | str | bool | tuple[int, ...]


class EpochMetrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Results of one pass over the training images."""

    epoch: int
    """Starts at 1."""
    learning_rate: float
    """Learning rate of the weights at the epoch's middle step."""
    train_loss: float
    """Mean training loss, cross-entropy in nats, over augmented crops, with dropout."""
    validation_loss: float
    """Mean cross-entropy in nats, centre view."""
    validation_top1: float
    """Top-1 accuracy on the validation images, 0..1, centre view."""
    validation_top5: float
    """Top-5 accuracy, 0..1; always 1 with five classes or fewer."""
    images_per_second: float
    """Training images per second, without the time for validation."""


class TrainingRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the weights were trained."""

    recipe: dict[str, RecipeValue]
    """The resolved recipe, field by field."""
    data: str
    """Absolute path of the training data, so that later commands can find it; bundles do not store it."""
    data_sha256: str
    """Digest of the names and bytes of the training and validation images."""
    num_train: int
    num_validation: int
    excluded: dict[str, str]
    """Images that could not be decoded and were skipped: path to error code."""
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int
    """The epoch with the lowest validation error; 0 before the first epoch is finished."""
    confusion: tuple[tuple[int, ...], ...]
    """Confusion matrix at the best epoch: validation images by true class (row) and top-1 prediction (column)."""
    interrupted: bool
    """True if fewer epochs were finished than the recipe has."""
    seconds: float
    device: str
    decoding: int = 1
    """Version of the decoding policy that the images were decoded with."""
    remarks: tuple[str, ...] = ()
    """Warnings about the run, each one sentence with its remedy."""
    start: "StartRecord | None" = None
    """The file that the run started from; None if all layers were initialised at random."""

    def __post_init__(self) -> None:
        if not 0 <= self.best_epoch <= len(self.epochs):
            raise ValueError(f"best_epoch must be 0 to {len(self.epochs)}, got {self.best_epoch}")


class AssumptionRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fact that an imported file did not contain."""

    subject: str
    """Its subject: "channel order"."""
    value: str
    """The assumed value."""
    reason: str
    """The reason."""


class ImportRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file that weights were imported from, and how the network was compared with it."""

    file: str
    """Its name, without folders."""
    sha256: str
    """Its digest."""
    format: str
    """Its format, in words."""
    assumptions: tuple[AssumptionRecord, ...]
    """The facts that it did not contain."""
    referee: str
    """The program that ran the file itself, in words."""
    num_images: int
    """Number of images compared, on the centre view."""
    max_error: float
    """Largest absolute difference of a probability."""
    max_log_error: float
    """Largest difference of a log-probability, in nats."""


class StartRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file that training started from (`train --from`), and what became of its layers."""

    file: str
    """Its name, without folders."""
    sha256: str
    """Its digest."""
    frozen: tuple[str, ...]
    """Layers that training did not change, in the order of the table."""
    new_layers: tuple[str, ...]
    """Layers that were initialised at random, not loaded: the last one if the classes differ."""
    imported: ImportRecord | None
    """Its format and its proof, if the file was imported."""
    start: "StartRecord | None" = None
    """The file that those weights were themselves trained from."""


class _Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    architecture: Architecture
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    training: TrainingRecord | None
    origin: ImportRecord | None = None
    tools: dict[str, str]
    tensors_sha256: str = ""
    header_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Trained tensors with their architecture table, preprocessing and labels."""

    architecture: Architecture
    """The table that the tensors match."""
    tensors: Mapping[str, np.ndarray]
    """float32, with the names and shapes of Architecture.tensor_shapes."""
    preprocessing: Preprocessing
    """The preprocessing that the first layer expects."""
    labels: tuple[str, ...]
    """One name for each class, in the order of the probabilities."""
    training: TrainingRecord | None
    """How they were trained; None if that is not known."""
    tools: Mapping[str, str]
    """Versions of the programs that made them."""
    origin: ImportRecord | None = None
    """The file that they were imported from; None if they were trained here."""
    mean_image: np.ndarray | None = None
    """The mean of each pixel, float32 (3, 256, 256), red, green, blue; None if the preprocessing has no mean image."""

    def __post_init__(self) -> None:
        """Raise WeightsError if tensors or labels do not match the table, or a tensor holds NaN or infinity."""
        _check_tensors(self.architecture, self.tensors)
        if self.preprocessing.has_mean_image != (self.mean_image is not None):
            raise WeightsError(f"{self.architecture.name}: the preprocessing and the tensors differ in a mean image")
        if self.mean_image is not None:
            if self.mean_image.shape != _MEAN_IMAGE_SHAPE:
                raise WeightsError(f"{_MEAN_IMAGE} must have shape {_MEAN_IMAGE_SHAPE}, got {self.mean_image.shape}")
            _check_values(_MEAN_IMAGE, self.mean_image)
        check_labels(self.labels, self.architecture.num_classes)

    def save(self, path: Path) -> None:
        """Write the file in one rename; on OSError the old file is unchanged."""
        # safetensors would write a non-contiguous array in the wrong order.
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}
        if self.mean_image is not None:
            tensors[_MEAN_IMAGE] = np.ascontiguousarray(self.mean_image)
        header = _Header(
            format_version=FORMAT_VERSION,
            architecture=self.architecture,
            preprocessing=self.preprocessing,
            labels=self.labels,
            training=self.training,
            origin=self.origin,
            tools=dict(self.tools),
            tensors_sha256=digest_of(tensors),
            header_sha256=BLANK,
        )
        write_atomically(path, safetensors.numpy.save(tensors, metadata={METADATA_KEY: seal_text(header)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """Weights with the path and digest of their file."""

    weights: Weights
    """The content of the file."""
    path: Path
    """Path of the file."""
    sha256: str
    """Digest of the whole file."""


def is_own_file(path: Path) -> bool:
    """Return whether a file is a weights file or a checkpoint of this program, valid or not; raises WeightsError."""
    try:
        with open_tensors(path) as file:
            return not {METADATA_KEY, CHECKPOINT_KEY}.isdisjoint(file.metadata)
    except TensorFileError:
        return False
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def load_weights(path: Path) -> LoadedWeights:
    """Read a weights file.

    Raises WeightsError if it is missing, not a weights file, of an unknown version, or does not match its table.
    """
    try:
        with open_tensors(path) as file:
            header, read = _read(path, file)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise WeightsError(f"{path}: {error}; copy the file again") from error
    except TensorFileError as error:
        raise WeightsError(f"{path}: not a safetensors file, or a damaged one: {error}; {_OF_OTHERS}") from error
    try:
        weights = Weights(
            architecture=header.architecture,
            tensors={name: read.tensors[name] for name in header.architecture.tensor_shapes()},
            preprocessing=header.preprocessing,
            labels=header.labels,
            training=header.training,
            tools=header.tools,
            origin=header.origin,
            mean_image=read.tensors.get(_MEAN_IMAGE),
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return LoadedWeights(weights=weights, path=path, sha256=read.sha256)


def _read(path: Path, file: TensorFile) -> tuple[_Header, ReadTensors]:
    if CHECKPOINT_KEY in file.metadata:
        raise WeightsError(f"{path}: this is a checkpoint for resuming; the weights are in the same folder")
    if METADATA_KEY not in file.metadata:
        raise WeightsError(
            f"{path}: a safetensors file, but not alexnet-deploy weights: no {METADATA_KEY!r} metadata; {_OF_OTHERS}"
        )
    try:
        header = from_json(file.text(METADATA_KEY, "weights", _VERSIONS, _SEALED_FROM), _Header)
    except UnknownVersionError as error:
        raise WeightsError(f"{path}: {error}") from error
    except msgspec.DecodeError as error:
        raise WeightsError(f"{path}: its header cannot be read: {error}") from error
    shapes = file.shapes
    if header.preprocessing.has_mean_image:
        shapes.pop(_MEAN_IMAGE, None)
    _check_shapes(header.architecture, shapes, str(path))
    return header, file.read(header.tensors_sha256)


def _check_shapes(architecture: Architecture, found: Mapping[str, tuple[int, ...]], subject: str) -> None:
    needed = architecture.tensor_shapes()
    for name in sorted(needed.keys() | found.keys()):
        if found.get(name) != needed.get(name):
            raise WeightsError(
                f"{subject}: {name} is {found.get(name, 'missing')}, the table needs {needed.get(name, 'none')}"
            )


def _check_tensors(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> None:
    _check_shapes(architecture, {name: tensor.shape for name, tensor in tensors.items()}, architecture.name)
    for name, tensor in tensors.items():
        _check_values(name, tensor)


def _check_values(name: str, tensor: np.ndarray) -> None:
    if tensor.dtype != np.float32:
        raise WeightsError(f"{name} must be float32, got {tensor.dtype}")
    if not np.isfinite(tensor).all():
        raise WeightsError(f"{name} holds {counted(int((~np.isfinite(tensor)).sum()), 'NaN or infinite value')}")
