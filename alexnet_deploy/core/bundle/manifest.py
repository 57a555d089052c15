"""The manifest of a bundle, manifest.json, as typed records.

    {"format": "alexnet-deploy bundle", "format_version": 3, "created": ..., "precision": ..., "contract": ...,
     "architecture": ..., "output_layer": ..., "preprocessing": ..., "decoding": ...,
     "views": ..., "layout": ..., "quantization": ..., "confidence": ..., "provenance": ..., "tools": ...,
     "golden": ..., "parity": [...], "gate": ..., "plans": [...],
     "files": {"model.onnx": {"sha256": ..., "bytes": ...}, ...}}

Digests prove that the bytes are the published ones; they do not prove who published them.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from alexnet_deploy.core.bundle.accuracy import Gate
from alexnet_deploy.core.bundle.contract import Contract, Output, contract_for, output_of
from alexnet_deploy.core.bundle.layout import LAYOUT
from alexnet_deploy.core.bundle.plans import PlanRecord
from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.errors import BundleError, IntegrityError, UsageError
from alexnet_deploy.core.fs.opening import GIB, MIB
from alexnet_deploy.core.golden.record import Golden, GoldenFiles
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Decoding, Preprocessing
from alexnet_deploy.core.model.views import View, ViewsName, views_by_name
from alexnet_deploy.core.model.weights import ImportRecord, StartRecord
from alexnet_deploy.core.records import ChangedRecordError, Sha256, UnknownVersionError, read_sealed, seal

FORMAT = "alexnet-deploy bundle"
FORMAT_VERSION = 3
"""Version of a bundle of probabilities."""
FEATURES_VERSION = 4
"""Version of a bundle of features."""

_VERSIONS = (2, FORMAT_VERSION, FEATURES_VERSION)
"""Versions that this program reads. The versions:

2: golden vectors begin at the pixels.
3: golden files, so that the proof begins at a file's bytes; see GoldenFiles.
4: the graph returns features of `output_layer` instead of probabilities.
"""

# Plain names and forward slashes only, so that every path means the same on all systems.
_SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

MOST_FILE_BYTES = 4 * GIB
"""Size limit of one file in a bundle. An ONNX graph has at most 2 GiB by its format."""

MOST_MANIFEST_BYTES = 64 * MIB

COPY_AGAIN = "copy the bundle again, or export it again"
"""What to do about a damaged bundle, as the end of an error."""

GOLDEN_SET = "golden"
"""The name of the bundle's golden images in a ParityRow."""

GOLDEN_FILES_SET = "golden files"
"""The name of the bundle's golden files in a ParityRow."""


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Meta(ge=0, le=MOST_FILE_BYTES)]


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
    """Largest absolute difference of a probability; NaN if the engine returned NaN.

    Differences of features are divided by the largest magnitude of all expected features.
    """
    p99_error: float
    """99th percentile of the same differences."""
    max_log_error: float | UnsetType = UNSET
    """Largest difference of a log-probability, in nats; this and the next three are unset for features."""
    kl_divergence: float | UnsetType = UNSET
    """Mean Kullback-Leibler divergence from the trained network's probabilities to the engine's, in nats."""
    top1_agreement: float | UnsetType = UNSET
    """Share of images with the same top-1 prediction, 0..1."""
    top5_agreement: float | UnsetType = UNSET
    """Share of the reference's top-5 predictions that are in the engine's top-5, 0..1."""
    max_cosine_distance: float | UnsetType = UNSET
    """Largest 1 minus cosine similarity between the two features of an image; unset for probabilities."""
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
    imported: ImportRecord | UnsetType = UNSET
    """The file that the weights were imported from; unset if they were trained here."""
    start: StartRecord | UnsetType = UNSET
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
    output_layer: str | UnsetType = UNSET
    """The layer whose features the graph returns, averaged over the views; unset if it returns probabilities."""
    preprocessing: Preprocessing
    decoding: Decoding | UnsetType = UNSET
    """How the image files of the parity checks were decoded; unset in bundles of decoding policy 1."""
    views: Views
    layout: int | UnsetType = UNSET
    """Layout of the graph; see core/bundle/layout.py. Unset in bundles of layout 1."""
    quantization: Quantization | None = None
    """Quantisation of an int8 graph; None for other precisions."""
    confidence: Confidence | UnsetType = UNSET
    """The temperature that the last layer was divided by; unset if confidence was not calibrated."""
    provenance: Provenance
    tools: dict[str, str]
    golden: Golden
    parity: tuple[ParityRow, ...]
    gate: Gate | None = None
    """The accuracy checks of an int8 graph; None for other precisions."""
    plans: tuple[PlanRecord, ...] = ()
    is_candidate: Literal[True] | UnsetType = UNSET
    """Set until the parity of its engines is verified; a published bundle does not have this field."""
    files: dict[str, FileEntry]
    """Every file except the manifest, by path relative to the bundle."""
    sha256: str = ""
    """Digest of this manifest, encoded with an empty digest; encode_manifest fills it in."""

    def __post_init__(self) -> None:
        num_images = self.golden.images.shape[0]
        if self.views.crops != views_by_name(self.views.name, self.architecture.input_size):
            raise ValueError(f"the crops do not match the views {self.views.name!r}")
        has_features = self.output.layer is not None
        if has_features != (self.format_version >= FEATURES_VERSION) or has_features != self.golden.has_features:
            raise ValueError(
                f"format version {self.format_version} and the golden vectors are not of {self.output.words}"
            )
        if self.contract != contract_for(self.output):
            raise ValueError(f"the contract is not the expected one for {self.output.size:,} {self.output.words}")
        shapes = (self.golden.images.shape, self.golden.expected.shape)
        if shapes != ((num_images, IMAGE_SIZE, IMAGE_SIZE, 3), (num_images, self.output.size)):
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
            shapes, number = (files.pixels.shape, files.expected.shape), len(files.names)
            if shapes != ((number, IMAGE_SIZE, IMAGE_SIZE, 3), (number, self.output.size)):
                raise ValueError(f"the {number} golden files have invalid shapes {shapes}")
            if len(set(files.names)) != number:
                raise ValueError("a golden file is listed twice")

    @property
    def output(self) -> Output:
        """What the graph returns."""
        layer = None if isinstance(self.output_layer, UnsetType) else self.output_layer
        try:
            return output_of(self.architecture, layer)
        except UsageError as error:
            raise ValueError(f"output_layer {error}") from error

    @property
    def graph_layout(self) -> int:
        """Layout of the graph; see core/bundle/layout.py."""
        return 1 if self.layout is UNSET else self.layout

    @property
    def needs_vnni(self) -> bool:
        """Whether a CPU without VNNI computes the graph wrongly; see Quantization.needs_vnni."""
        return self.quantization is not None and self.quantization.needs_vnni


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
