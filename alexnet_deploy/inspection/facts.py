"""Records that describe a run, a weights file, a bundle, a graph or a packed set; `inspect --json` prints them.

Each record has a `kind` and a `path`. A record that is stored in a file - a bundle's manifest, a packed set's header,
the training record of weights - is included unchanged.
"""

import shlex
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import MANIFEST, open_bundle
from alexnet_deploy.core.errors import BundleError, WeightsError
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.fs.run_files import CHECKPOINT, METRICS, REPORT, WEIGHTS
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.core.model.tensor_file import TensorFileError, open_tensors
from alexnet_deploy.core.model.weights import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_KEY,
    CHECKPOINT_SEALED_FROM,
    CHECKPOINT_VERSIONS,
    EpochMetrics,
    ImportRecord,
    LoadedWeights,
    RecipeValue,
    TrainingRecord,
    load_weights,
)
from alexnet_deploy.core.records import UnknownVersionError
from alexnet_deploy.train.schedule import has_ended

# Not imported from train.pack.format, which needs torch: `inspect` of a bundle does not.
_PACK_HEADER = "pack.json"

# Limit of a protobuf message.
_MAX_GRAPH_BYTES = 2**31 - 1


class RunFacts(Struct, frozen=True, kw_only=True, tag="run", tag_field="kind"):
    """A run's directory."""

    path: str
    architecture: str
    num_classes: int
    data: str
    """The training data."""
    recipe: dict[str, RecipeValue]
    """Recipe values by field."""
    epochs: int
    """Epochs of the recipe."""
    epochs_done: int
    best_epoch: int | None
    """None before the first epoch is complete."""
    best_top1: float | None
    """Top-1 of the best epoch on the validation images, centre view, 0..1."""
    weights: str | None
    """Weights of the best epoch; this and the next three are paths, None if the file does not exist."""
    checkpoint: str | None
    metrics: str | None
    """One line of JSON per epoch."""
    report: str | None
    next: str
    """The command that resumes or exports it."""
    is_finished: bool
    """Whether all its epochs are done, or early stopping has ended it."""


class WeightsFacts(Struct, frozen=True, kw_only=True, tag="weights", tag_field="kind"):
    """A weights file."""

    path: str
    sha256: str
    architecture: Architecture
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    tools: dict[str, str]
    training: TrainingRecord | None
    origin: ImportRecord | None
    """The file that they were imported from; None where they were trained here."""


class BundleFacts(Struct, frozen=True, kw_only=True, tag="bundle", tag_field="kind"):
    """A bundle."""

    path: str
    sha256: str
    """Digest of manifest.json, which lists the digest of each file."""
    labels: tuple[str, ...]
    manifest: Manifest


class GraphFacts(Struct, frozen=True, kw_only=True, tag="graph", tag_field="kind"):
    """An ONNX graph."""

    path: str
    name: str
    producer: str
    opsets: dict[str, int]
    """Opset version by domain; the domain of ONNX itself is empty."""
    bytes: int
    nodes: dict[str, int]
    """Number of nodes by type."""
    metadata: dict[str, str]


class PackFacts(Struct, frozen=True, kw_only=True, tag="pack", tag_field="kind"):
    """A packed set."""

    path: str
    bytes: int
    """Size of its pixels."""
    header: Struct
    """Its pack.json."""


Facts: TypeAlias = RunFacts | WeightsFacts | BundleFacts | GraphFacts | PackFacts


class _SavedRecipe(Struct):
    epochs: int
    early_stopping: int = 0


class _SavedPosition(Struct):
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int

    def __post_init__(self) -> None:
        if not 0 <= self.best_epoch <= len(self.epochs):
            raise ValueError(f"best_epoch must be in 0..{len(self.epochs)}, got {self.best_epoch}")


class _SavedRun(Struct):
    """The fields of a checkpoint that are shown; its complete record needs torch."""

    architecture: Architecture
    recipe: dict[str, RecipeValue]
    data: str
    position: _SavedPosition


def inspect_path(path: Path) -> Facts:
    """Return a record of the file or directory at an existing path.

    Raises BundleError if it is of no known kind, and what reading it raises.
    """
    if path.is_dir() and (path / MANIFEST).exists():
        return _bundle(path)
    if (path / _PACK_HEADER).exists():
        return _pack(path)
    if (path / CHECKPOINT).is_file():
        return _run(path)
    if (path / WEIGHTS).is_file():
        loaded = load_weights(path / WEIGHTS)
        is_import = loaded.weights.training is None and loaded.weights.origin is not None
        return _weights(loaded) if is_import else _run(path)
    if path.suffix == ".safetensors":
        return _weights(load_weights(path))
    if path.suffix == ".onnx":
        return _graph(path)
    place = shlex.quote(str(path))
    images = (
        f"; for a folder of images use `alexnet-deploy predict {place}` or `train {place}`" if path.is_dir() else ""
    )
    raise BundleError(
        f"{path}: cannot be inspected; pass the directory of a run, a bundle or a packed set, or a .safetensors or "
        f".onnx file{images}"
    )


def table_at(path: Path) -> Architecture:
    """Return the table of layers of the run, the weights file or the bundle at an existing path.

    Raises BundleError if it is of another kind, and what reading it raises.
    """
    if (path / WEIGHTS).is_file():
        return load_weights(path / WEIGHTS).weights.architecture
    if (path / CHECKPOINT).is_file():
        return _read_checkpoint(path / CHECKPOINT).architecture
    match inspect_path(path):
        case WeightsFacts(architecture=table) | BundleFacts(manifest=Manifest(architecture=table)):
            return table
        case _:
            raise BundleError(f"{path}: has no table of layers; pass a run, a weights file, a bundle or a name")


def _run(path: Path) -> RunFacts:
    names = {name: str(path / name) if (path / name).is_file() else None for name in (WEIGHTS, METRICS, REPORT)}
    if (path / CHECKPOINT).is_file():
        saved = _read_checkpoint(path / CHECKPOINT)
        architecture, recipe, data = saved.architecture, saved.recipe, saved.data
        epochs, best_epoch = saved.position.epochs, saved.position.best_epoch
    else:
        weights = load_weights(path / WEIGHTS).weights
        if weights.training is None:
            raise WeightsError(f"{path / WEIGHTS}: has no training record; pass the weights file itself to inspect it")
        architecture, recipe, data = weights.architecture, weights.training.recipe, weights.training.data
        epochs, best_epoch = weights.training.epochs, weights.training.best_epoch
    try:
        plan = msgspec.convert(recipe, _SavedRecipe)
    except msgspec.ValidationError as error:
        raise WeightsError(f"{path}: its recipe has no valid number of epochs: {error}") from error
    is_finished = has_ended(
        num_epochs=plan.epochs,
        early_stopping=plan.early_stopping,
        epochs_done=len(epochs),
        best_epoch=best_epoch,
    )
    can_resume = not is_finished and (path / CHECKPOINT).is_file()
    command = f"train --resume --out {shlex.quote(str(path))}" if can_resume else f"export {shlex.quote(str(path))}"
    return RunFacts(
        path=str(path),
        architecture=architecture.name,
        num_classes=architecture.num_classes,
        data=data,
        recipe=recipe,
        epochs=plan.epochs,
        epochs_done=len(epochs),
        best_epoch=best_epoch or None,
        best_top1=epochs[best_epoch - 1].validation_top1 if best_epoch else None,
        weights=names[WEIGHTS],
        checkpoint=str(path / CHECKPOINT) if (path / CHECKPOINT).is_file() else None,
        metrics=names[METRICS],
        report=names[REPORT],
        next=f"alexnet-deploy {command}",
        is_finished=is_finished,
    )


def _read_checkpoint(path: Path) -> _SavedRun:
    try:
        with open_tensors(path) as file:
            return from_json(
                file.text(CHECKPOINT_KEY, CHECKPOINT_FORMAT, CHECKPOINT_VERSIONS, CHECKPOINT_SEALED_FROM), _SavedRun
            )
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnknownVersionError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (TensorFileError, KeyError, msgspec.DecodeError) as error:
        raise WeightsError(f"{path}: is not a checkpoint, or is damaged: {error}") from error


def _weights(loaded: LoadedWeights) -> WeightsFacts:
    weights = loaded.weights
    return WeightsFacts(
        path=str(loaded.path),
        sha256=loaded.sha256,
        architecture=weights.architecture,
        labels=weights.labels,
        preprocessing=weights.preprocessing,
        tools=dict(weights.tools),
        training=weights.training,
        origin=weights.origin,
    )


def _bundle(path: Path) -> BundleFacts:
    bundle = open_bundle(path)
    return BundleFacts(path=str(path), sha256=bundle.sha256, labels=bundle.labels, manifest=bundle.manifest)


def _pack(path: Path) -> PackFacts:
    from alexnet_deploy.train.pack.format import IMAGE_BYTES, open_pack

    header = open_pack(path).header
    return PackFacts(path=str(path), bytes=header.num_images * IMAGE_BYTES, header=header)


def _graph(path: Path) -> GraphFacts:
    # Imported here: the other kinds need no onnx.
    import onnx
    from google.protobuf.message import DecodeError

    from alexnet_deploy.export.audit import is_text

    try:
        # Loaded from bytes, so that no external data is read.
        model = onnx.load_model_from_string(read_file(path, _MAX_GRAPH_BYTES))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read as an ONNX graph: {error.strerror}") from error
    except DecodeError as error:
        raise BundleError(f"{path}: cannot be read as an ONNX graph: {error}") from error
    if not is_text(model):
        raise BundleError(f"{path}: cannot be read as an ONNX graph: it holds text that is not UTF-8")
    return GraphFacts(
        path=str(path),
        name=model.graph.name,
        producer=model.producer_name,
        opsets={opset.domain: opset.version for opset in model.opset_import},
        bytes=model.ByteSize(),
        nodes=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        metadata={prop.key: prop.value for prop in model.metadata_props},
    )
