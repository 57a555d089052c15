"""Cache of calibration histograms: one safetensors file, reused only for the same graph and the same images.

The tensors are the counts of each layer's histogram, int64, under the layer's name; the file's metadata holds the rest.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy
from msgspec import Struct

from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.opening import MIB, open_input
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.tensor_file import BLANK, INT64, TensorFileError, digest_of, open_tensors, seal_text
from alexnet_deploy.core.records import UnknownVersionError
from alexnet_deploy.export.calibration import NUM_BINS, Histogram

KEY = "alexnet-deploy-calibration"
_FORMAT_VERSION = 2

# The histograms of 20 layers need 2 MB.
_MOST_BYTES = 64 * MIB

# The maximum of int64.
_MOST_VALUES = 2**63 - 1

_REMEDY = "remove it to calibrate again, or name another file"


class _Range(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    upper: float
    largest: float

    def __post_init__(self) -> None:
        # A layer whose inputs are all zero has an `upper` of 0.
        if not 0 <= self.largest <= self.upper < math.inf:
            raise ValueError(
                f"largest and upper must be finite and 0 <= largest <= upper, got {self.largest:g} and {self.upper:g}"
            )


class _Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format_version: int = _FORMAT_VERSION
    graph_sha256: str
    images_sha256: str
    num_images: int
    layers: dict[str, _Range]
    tensors_sha256: str
    header_sha256: str = BLANK


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCache:
    """Histograms with the digests of their graph and images."""

    graph_sha256: str
    """Digest of the FP32 graph used for calibration."""
    images_sha256: str
    """Digest of the images' pixels, in order; another decoding policy gives another digest."""
    num_images: int
    histograms: Mapping[str, Histogram]
    """The histogram of each layer's input."""

    def mismatch(self, graph_sha256: str, images_sha256: str) -> str | None:
        """Return why the cache cannot be used for this graph and these images; None if it can."""
        if self.graph_sha256 != graph_sha256:
            return "made from another graph"
        if self.images_sha256 != images_sha256:
            return "made from other images, or from the same images with another decoding policy"
        return None


def save_cache(path: Path, cache: CalibrationCache) -> None:
    """Write the file in one rename; raises ExportError if it cannot be written."""
    counts = {layer: np.ascontiguousarray(found.counts, "<i8") for layer, found in cache.histograms.items()}
    header = _Header(
        graph_sha256=cache.graph_sha256,
        images_sha256=cache.images_sha256,
        num_images=cache.num_images,
        layers={layer: _Range(upper=found.upper, largest=found.largest) for layer, found in cache.histograms.items()},
        tensors_sha256=digest_of(counts),
    )
    try:
        write_atomically(path, safetensors.numpy.save(counts, metadata={KEY: seal_text(header)}))
    except OSError as error:
        raise ExportError(f"{path}: the calibration cache cannot be written: {error.strerror}") from error


def load_cache(path: Path) -> CalibrationCache:
    """Read the file; raises ExportError if it is not a calibration cache or has changed since it was written."""
    try:
        with open_tensors(path, INT64) as file:
            if file.num_bytes > _MOST_BYTES:
                raise ExportError(f"{path}: has {file.num_bytes:,} bytes, the limit is {_MOST_BYTES:,}; {_REMEDY}")
            header = from_json(file.text(KEY, "calibration cache", (_FORMAT_VERSION,), _FORMAT_VERSION), _Header)
            counts = file.read(header.tensors_sha256).tensors
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise ExportError(f"{path}: not a calibration cache: it has no entry {KEY!r}; {_REMEDY}") from error
    except UnknownVersionError as error:
        raise ExportError(f"{path}: {error}; {_REMEDY}") from error
    except (TensorFileError, msgspec.DecodeError) as error:
        if _is_json(path):
            raise ExportError(
                f"{path}: calibration cache version 1 is not supported; this program reads calibration cache version "
                f"{_FORMAT_VERSION}; {_REMEDY}"
            ) from error
        raise ExportError(f"{path}: not a calibration cache: {error}; {_REMEDY}") from error
    if counts.keys() != header.layers.keys():
        raise ExportError(f"{path}: not a calibration cache: its layers have no counts, or others do; {_REMEDY}")
    for layer, found in counts.items():
        # Summed in Python: numpy's sum wraps at 2**63.
        if found.shape != (NUM_BINS,) or found.min() < 0 or sum(found.tolist()) > _MOST_VALUES:
            raise ExportError(
                f"{path}: {layer}: counts must be {NUM_BINS:,} numbers of 0 or more, and their sum at most "
                f"{_MOST_VALUES:,}; {_REMEDY}"
            )
    return CalibrationCache(
        graph_sha256=header.graph_sha256,
        images_sha256=header.images_sha256,
        num_images=header.num_images,
        histograms={
            layer: Histogram(counts=counts[layer], upper=kept.upper, largest=kept.largest)
            for layer, kept in header.layers.items()
        },
    )


def _is_json(path: Path) -> bool:
    """Return whether a file begins as caches of version 1 do."""
    with open_input(path) as file:
        return file.read(10) == b'{"format":'
