"""What a bundle says of itself: manifest.json, as typed records.

    {"format": "alexnet-deploy bundle", "format_version": 2, "created": ..., "precision": ..., "contract": ...,
     "architecture": ..., "preprocessing": ..., "decoding": ...,
     "views": ..., "layout": ..., "quantization": ..., "provenance": ..., "tools": ...,
     "golden": ..., "parity": [...], "gate": ..., "plans": [...],
     "files": {"model.onnx": {"sha256": ..., "bytes": ...}, ...}}

Digests prove that the bytes are those that were published; they do not say by whom.
"""

import re
from typing import Literal

import msgspec
from msgspec import Struct

from alexnet_deploy.core.bundle.accuracy import Gate
from alexnet_deploy.core.bundle.layout import LAYOUT
from alexnet_deploy.core.bundle.plans import PlanRecord
from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import BundleError, IntegrityError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.opening import GIB, MIB
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Decoding, Preprocessing
from alexnet_deploy.core.model.views import View, ViewsName, views_by_name
from alexnet_deploy.core.model.weights import ImportRecord

FORMAT = "alexnet-deploy bundle"
FORMAT_VERSION = 2

# Plain names and forward slashes only, so that no entry means something else on another system.
_SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_MOST_DIMENSIONS = 8

MOST_FILE_BYTES = 4 * GIB
"""Of one file of a bundle. A graph has 2 GiB at most, as its format counts them."""

MOST_MANIFEST_BYTES = 64 * MIB

IMAGES = "images"
PROBABILITIES = "probabilities"
"""The graph's one input and one output."""

GOLDEN_SET = "golden"
"""What a ParityRow calls the bundle's own images."""


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or not 0 <= self.bytes <= MOST_FILE_BYTES:
            raise ValueError(f"a file needs a SHA-256 of 64 hexadecimal digits and a size of 0 to {MOST_FILE_BYTES:,}")


class TensorFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of raw numbers, little-endian, row-major."""

    file: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        # Few dimensions: a product of thousands of large numbers takes hours.
        if min(self.shape, default=0) < 1 or len(self.shape) > _MOST_DIMENSIONS:
            raise ValueError(f"{self.file}: no tensor has the shape {self.shape[:_MOST_DIMENSIONS]}")


class TensorContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that goes into or comes out of the graph; N and K stand for batch and classes."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]
    meaning: str


class Contract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every engine takes and gives."""

    input: TensorContract
    output: TensorContract


def contract_for(num_classes: int) -> Contract:
    """Return the one contract of every engine: uint8 images in, float32 probabilities out."""
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
    """How far an engine may be from the trained network before it fails."""

    probability: float
    """Largest absolute difference of a probability."""
    log_probability: float
    """Largest difference of a log-probability, in nats: the logits' own scale, where a saturated softmax hides none."""
    top1_agreement: float
    """Least share of images with the same first guess, 0..1, near ties left out."""


class GoldenGraph(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an int8 graph itself says of the golden images, by ONNX's own definition of its operators.

    Rounding to int8 moves it from the trained network, most on images unlike those it was calibrated on; an engine
    that runs the graph has far less excuse, and is held against this.
    """

    probabilities: TensorFile
    tolerance: Tolerance


class Golden(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stored images and what the trained network said of them."""

    images: TensorFile
    probabilities: TensorFile
    tolerance: Tolerance
    graph: GoldenGraph | None = None
    """The graph's own answers, in int8; None where the trained network's are near enough to hold engines against."""
    separation: dict[str, float]
    """For each planted fault: how far it moves these vectors, as a multiple of the tolerance. Under 1 it would pass."""


class ParityRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine's measured agreement with the trained network."""

    backend: str
    version: str
    device: str
    precision: Precision
    """The graph's that it ran."""
    arithmetic: str
    """What the multiplications were done in."""
    against: Literal["network", "graph"] = "network"
    """What it was held against: the trained network, or what its own int8 graph says by ONNX's definition."""
    images: str = msgspec.field(name="pictures")
    """Which images they were compared on."""
    num_images: int
    max_error: float
    """Largest absolute difference of a probability; NaN where the engine gave NaN."""
    p99_error: float
    """The difference that 99 % of the probabilities stay under."""
    max_log_error: float
    """Largest difference of a log-probability, in nats."""
    kl_divergence: float
    """Mean Kullback-Leibler divergence from the trained network's probabilities to the engine's, in nats."""
    top1_agreement: float
    """Share of images with the same first guess, 0..1."""
    top5_agreement: float
    """Share of the reference's first five that are among the engine's first five, 0..1."""
    top1_accuracy: float | None
    """Share of the images whose first guess is right, 0..1; None where their classes are not known."""
    latency_ms: float | None
    """Median time of one image alone, from pixels in memory to probabilities; None where it was not measured."""
    failures: tuple[str, ...]
    """What was out of tolerance; none where it passed."""

    @property
    def passed(self) -> bool:
        """True where nothing was out of tolerance."""
        return not self.failures


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bundle was made from."""

    weights_sha256: str
    data_sha256: str | None
    """Digest of the training data, where the weights name it."""
    imported: ImportRecord | msgspec.UnsetType = msgspec.UNSET
    """The file that the weights were imported from; unset where they were trained here."""


class Views(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The views that the graph cuts from each image."""

    name: ViewsName
    crops: tuple[View, ...]

    def __post_init__(self) -> None:
        if not self.crops:
            raise ValueError("there are no views")


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a bundle says of itself; see the top of this file."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    created: str
    """UTC, ISO 8601."""
    precision: Precision
    contract: Contract
    architecture: Architecture
    preprocessing: Preprocessing
    decoding: Decoding | msgspec.UnsetType = msgspec.UNSET
    """How files became the pixels that the graph was proved on; unset in bundles of decoding policy 1."""
    views: Views
    layout: int | msgspec.UnsetType = msgspec.UNSET
    """How the graph is written; see core/bundle/layout.py. Unset in bundles of layout 1."""
    quantization: Quantization | None = None
    """How an int8 graph counts; None for the other precisions."""
    provenance: Provenance
    tools: dict[str, str]
    golden: Golden
    parity: tuple[ParityRow, ...]
    gate: Gate | None = None
    """What an int8 graph had to pass; None for the other precisions."""
    plans: tuple[PlanRecord, ...] = ()
    is_candidate: Literal[True] | msgspec.UnsetType = msgspec.UNSET
    """Set while its engines are being proved; a bundle that is published has no such field."""
    files: dict[str, FileEntry]
    """Every file but the manifest, by path below the bundle."""
    sha256: str = ""
    """Digest of this manifest as encode_manifest writes it with an empty digest; encode_manifest fills it in."""

    def __post_init__(self) -> None:
        num_classes, num_images = self.architecture.num_classes, self.golden.images.shape[0]
        if self.views.crops != views_by_name(self.views.name, self.architecture.input_size):
            raise ValueError(f"the crops are not those of the views {self.views.name!r}")
        if self.contract != contract_for(num_classes):
            raise ValueError("the contract is not the one that every engine keeps")
        shapes = (self.golden.images.shape, self.golden.probabilities.shape)
        if shapes != ((num_images, IMAGE_SIZE, IMAGE_SIZE, 3), (num_images, num_classes)):
            raise ValueError(f"golden vectors cannot have the shapes {shapes}")
        if (self.precision == "int8") != (self.quantization is not None):
            raise ValueError(
                f"precision {self.precision} {'has no' if self.precision == 'int8' else 'takes no'} ranges"
            )
        if not 1 <= self.graph_layout <= LAYOUT:
            raise ValueError(f"the graph's layout is {self.layout}, where this program reads 1 to {LAYOUT}")
        for name in self.files:
            if not _SAFE_PATH.fullmatch(name):
                raise ValueError(f"the path {name!r} is not a plain one below the bundle")

    @property
    def graph_layout(self) -> int:
        """How the graph is written; see core/bundle/layout.py."""
        return 1 if self.layout is msgspec.UNSET else self.layout


class _Header(Struct, kw_only=True):
    format: str
    format_version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Return manifest.json: UTF-8, indented, its own digest filled in; the same bytes for the same manifest."""
    # As a reader will hold it: 100 where a float belongs is written 100 and read 100.0.
    as_read = msgspec.json.decode(_encode(manifest), type=Manifest)
    sealed = msgspec.structs.replace(as_read, sha256=_digest(as_read))
    return msgspec.json.format(_encode(sealed), indent=2) + b"\n"


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest, order="deterministic")


def _digest(manifest: Manifest) -> str:
    return sha256(_encode(msgspec.structs.replace(manifest, sha256="")))


def decode_manifest(data: bytes, subject: str) -> Manifest:
    """Read manifest.json; `subject` names the bundle in errors.

    Raises BundleError where it is of another format or version, IntegrityError where it does not hold what it must.
    """
    try:
        header = from_json(data, _Header)
        if header.format != FORMAT or header.format_version != FORMAT_VERSION:
            raise BundleError(
                f"{subject}: {header.format} version {header.format_version}, where this program reads "
                f"{FORMAT} version {FORMAT_VERSION}; use the alexnet-deploy that wrote it, or export again"
            )
        manifest = from_json(data, Manifest)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{subject}: manifest.json cannot be read: {error}") from error
    if manifest.sha256 != _digest(manifest):
        raise IntegrityError(f"{subject}: manifest.json is not the one that was published: its digest does not fit it")
    return manifest
