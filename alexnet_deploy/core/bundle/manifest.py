"""The manifest of a bundle, manifest.json, as typed records.

    {"format": "alexnet-deploy bundle", "format_version": 3, "created": ..., "precision": ..., "contract": ...,
     "architecture": ..., "preprocessing": ..., "decoding": ...,
     "views": ..., "layout": ..., "quantization": ..., "confidence": ..., "provenance": ..., "tools": ...,
     "golden": ..., "parity": [...], "gate": ..., "plans": [...],
     "files": {"model.onnx": {"sha256": ..., "bytes": ...}, ...}}

Digests prove that the bytes are the published ones; they do not prove who published them.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from alexnet_deploy.core.bundle.accuracy import Gate
from alexnet_deploy.core.bundle.layout import LAYOUT
from alexnet_deploy.core.bundle.plans import PlanRecord
from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.errors import BundleError, IntegrityError
from alexnet_deploy.core.fs.opening import GIB, MIB
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Decoding, Preprocessing
from alexnet_deploy.core.model.views import View, ViewsName, views_by_name
from alexnet_deploy.core.model.weights import ImportRecord, StartRecord
from alexnet_deploy.core.records import ChangedRecordError, Sha256, UnknownVersionError, read_sealed, seal

FORMAT = "alexnet-deploy bundle"
FORMAT_VERSION = 3

_VERSIONS = (2, FORMAT_VERSION)
"""Versions that this program reads. The versions:

2: golden vectors begin at the pixels.
3: golden files, so that the proof begins at a file's bytes; see GoldenFiles.
"""

# Plain names and forward slashes only, so that every path means the same on all systems.
_SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

# Few: a product of thousands of large numbers takes hours.
_MOST_DIMENSIONS = 8

MOST_FILE_BYTES = 4 * GIB
"""Size limit of one file in a bundle. An ONNX graph has at most 2 GiB by its format."""

MOST_MANIFEST_BYTES = 64 * MIB

COPY_AGAIN = "copy the bundle again, or export it again"
"""What to do about a damaged bundle, as the end of an error."""

IMAGES = "images"
PROBABILITIES = "probabilities"
"""Names of the graph's one input and one output."""

GOLDEN_SET = "golden"
"""The name of the bundle's golden images in a ParityRow."""

GOLDEN_FILES_SET = "golden files"
"""The name of the bundle's golden files in a ParityRow."""


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Meta(ge=0, le=MOST_FILE_BYTES)]


class TensorFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of raw numbers, little-endian, row-major."""

    file: str
    dtype: Literal["uint8", "float32"]
    shape: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, max_length=_MOST_DIMENSIONS)]


class TensorContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output tensor of the graph; N is the batch size, K the number of classes."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]
    meaning: str


class Contract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The input and output of every engine."""

    input: TensorContract
    output: TensorContract


def contract_for(num_classes: int) -> Contract:
    """Return the contract that all engines share: uint8 images in, float32 probabilities out."""
    return Contract(
        input=TensorContract(
            name=IMAGES, dtype="uint8", shape=("N", IMAGE_SIZE, IMAGE_SIZE, 3), meaning="RGB, upright, 0..255"
        ),
        output=TensorContract(
            name=PROBABILITIES,
            dtype="float32",
            shape=("N", num_classes),
            meaning="each row sums to 1, in the order of labels.txt",
        ),
    )


class Tolerance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest allowed differences between an engine and the trained network."""

    probability: float
    """Largest absolute difference of a probability."""
    log_probability: float
    """Largest difference of a log-probability, in nats: the scale of logits, so a saturated softmax hides no error."""
    top1_agreement: float
    """Smallest share of images with the same top-1 prediction, 0..1, near ties excluded."""


class GoldenGraph(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outputs of an int8 graph for the golden images, by ONNX's reference definition of the operators.

    Rounding to int8 changes the outputs of the trained network, most for images unlike the calibration images. An
    engine that runs the graph should match the graph much more closely, so it is compared with these outputs.
    """

    probabilities: TensorFile
    tolerance: Tolerance


class GoldenFiles(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stored image files, with the pixels and the probabilities that must come of them."""

    names: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^golden/files/[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")], ...], Meta(min_length=1)
    ]
    """Paths inside the bundle, in the order of both tensors."""
    pixels: TensorFile
    """Under the bundle's resize policy, equal to the bit in every decoder."""
    probabilities: TensorFile
    """The trained network's outputs for these pixels; those of the graph itself if it is int8."""


class Golden(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stored images and the trained network's outputs for them."""

    images: TensorFile
    probabilities: TensorFile
    tolerance: Tolerance
    graph: GoldenGraph | None = None
    """Outputs of the int8 graph itself; None if engines are compared with the trained network's outputs."""
    separation: dict[str, float]
    """For each planted fault: the change of these vectors as a multiple of the tolerance. Below 1 it would pass."""
    files: GoldenFiles | msgspec.UnsetType = msgspec.UNSET
    """Image files, for decoders; unset in bundles of format version 2."""


class ParityRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine's measured agreement with the trained network."""

    backend: str
    version: str
    device: str
    precision: Precision
    """Precision of the graph."""
    arithmetic: str
    """Number type of the multiplications."""
    against: Literal["network", "graph"] = "network"
    """The reference: the trained network, or the outputs of the int8 graph by ONNX's definition."""
    images: str = msgspec.field(name="pictures")
    """Name of the set of images used."""
    num_images: int
    max_error: float
    """Largest absolute difference of a probability; NaN if the engine returned NaN."""
    p99_error: float
    """99th percentile of the absolute difference of a probability."""
    max_log_error: float
    """Largest difference of a log-probability, in nats."""
    kl_divergence: float
    """Mean Kullback-Leibler divergence from the trained network's probabilities to the engine's, in nats."""
    top1_agreement: float
    """Share of images with the same top-1 prediction, 0..1."""
    top5_agreement: float
    """Share of the reference's top-5 predictions that are in the engine's top-5, 0..1."""
    top1_accuracy: float | None
    """Top-1 accuracy, 0..1; None if the images are not labelled."""
    latency_ms: float | None
    """Median latency at batch size 1, from pixels in memory to probabilities; None if it was not measured."""
    failures: tuple[str, ...]
    """The exceeded tolerances; empty if it passed."""

    @property
    def passed(self) -> bool:
        """True if everything was within tolerance."""
        return not self.failures


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digests of the inputs of the export."""

    weights_sha256: str
    data_sha256: str | None
    """Digest of the training data; None if the weights do not have it."""
    imported: ImportRecord | msgspec.UnsetType = msgspec.UNSET
    """The file that the weights were imported from; unset if they were trained here."""
    start: StartRecord | msgspec.UnsetType = msgspec.UNSET
    """The file that their training started from; unset if it started from random layers."""


class Views(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The views that the graph crops from each image."""

    name: ViewsName
    crops: Annotated[tuple[View, ...], Meta(min_length=1)]


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of manifest.json; see the top of this file."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    created: str
    """UTC, ISO 8601."""
    precision: Precision
    contract: Contract
    architecture: Architecture
    preprocessing: Preprocessing
    decoding: Decoding | msgspec.UnsetType = msgspec.UNSET
    """How the image files of the parity checks were decoded; unset in bundles of decoding policy 1."""
    views: Views
    layout: int | msgspec.UnsetType = msgspec.UNSET
    """Layout of the graph; see core/bundle/layout.py. Unset in bundles of layout 1."""
    quantization: Quantization | None = None
    """Quantisation of an int8 graph; None for other precisions."""
    confidence: Confidence | msgspec.UnsetType = msgspec.UNSET
    """The temperature that the last layer was divided by; unset if confidence was not calibrated."""
    provenance: Provenance
    tools: dict[str, str]
    golden: Golden
    parity: tuple[ParityRow, ...]
    gate: Gate | None = None
    """The accuracy checks of an int8 graph; None for other precisions."""
    plans: tuple[PlanRecord, ...] = ()
    is_candidate: Literal[True] | msgspec.UnsetType = msgspec.UNSET
    """Set until the parity of its engines is verified; a published bundle does not have this field."""
    files: dict[str, FileEntry]
    """Every file except the manifest, by path relative to the bundle."""
    sha256: str = ""
    """Digest of this manifest, encoded with an empty digest; encode_manifest fills it in."""

    def __post_init__(self) -> None:
        num_classes, num_images = self.architecture.num_classes, self.golden.images.shape[0]
        if self.views.crops != views_by_name(self.views.name, self.architecture.input_size):
            raise ValueError(f"the crops do not match the views {self.views.name!r}")
        if self.contract != contract_for(num_classes):
            raise ValueError(f"the contract is not the expected one for {num_classes} classes")
        shapes = (self.golden.images.shape, self.golden.probabilities.shape)
        if shapes != ((num_images, IMAGE_SIZE, IMAGE_SIZE, 3), (num_images, num_classes)):
            raise ValueError(f"the golden vectors have invalid shapes {shapes}")
        self._check_golden_files()
        if (self.precision == "int8") != (self.quantization is not None):
            raise ValueError(
                f"precision {self.precision} {'needs' if self.precision == 'int8' else 'must not have'} quantization"
            )
        if not 1 <= self.graph_layout <= LAYOUT:
            raise ValueError(f"graph layout {self.layout} is not supported; this program reads 1 to {LAYOUT}")
        for name in self.files:
            if not _SAFE_PATH.fullmatch(name):
                raise ValueError(f"invalid file path {name!r}: it must be a plain path inside the bundle")

    def _check_golden_files(self) -> None:
        files = self.golden.files
        if (self.format_version >= 3) != isinstance(files, GoldenFiles):
            raise ValueError(
                f"format version {self.format_version} {'needs' if self.format_version >= 3 else 'has no'} golden files"
            )
        if isinstance(files, GoldenFiles):
            shapes, number = (files.pixels.shape, files.probabilities.shape), len(files.names)
            if shapes != ((number, IMAGE_SIZE, IMAGE_SIZE, 3), (number, self.architecture.num_classes)):
                raise ValueError(f"the {number} golden files have invalid shapes {shapes}")
            if len(set(files.names)) != number:
                raise ValueError("a golden file is listed twice")

    @property
    def graph_layout(self) -> int:
        """Layout of the graph; see core/bundle/layout.py."""
        return 1 if self.layout is msgspec.UNSET else self.layout


def encode_manifest(manifest: Manifest) -> bytes:
    """Return manifest.json: UTF-8, indented, its own digest filled in; the same bytes for the same manifest."""
    # Decoded once, so that the digest covers the values that a reader gets: 100 in a float field becomes 100.0.
    as_read = msgspec.json.decode(_encode(manifest), type=Manifest)
    return msgspec.json.format(_encode(seal(as_read, "deterministic")), indent=2) + b"\n"


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest, order="deterministic")


def decode_manifest(data: bytes, subject: str) -> Manifest:
    """Read manifest.json; `subject` names the bundle in errors.

    Raises BundleError if it has another format or version, IntegrityError if its content is invalid or changed.
    """
    try:
        return read_sealed(data, Manifest, FORMAT, _VERSIONS, "deterministic")
    except UnknownVersionError as error:
        raise BundleError(f"{subject}: {error}; use the alexnet-deploy that wrote it, or export again") from error
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{subject}: manifest.json cannot be read: {error}; {COPY_AGAIN}") from error
    except ChangedRecordError as error:
        raise IntegrityError(
            f"{subject}: manifest.json has changed since it was published: {error}; {COPY_AGAIN}"
        ) from error
