"""Cache of calibration histograms: one JSON file, reused only for the same graph and the same images."""

import math
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.fs.files import sha256, write_atomically
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.export.calibration import NUM_BINS, Histogram

_FORMAT = "alexnet-deploy calibration"
_FORMAT_VERSION = 1

# The histograms of 20 layers need 2 MB.
_MOST_BYTES = 64 * MIB

# The maximum of int64.
_MOST_VALUES = 2**63 - 1


class _Counts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    counts: tuple[int, ...]
    upper: float
    largest: float

    def __post_init__(self) -> None:
        if min(self.counts, default=0) < 0 or sum(self.counts) > _MOST_VALUES:
            raise ValueError(f"counts must be 0 or more, and their sum at most {_MOST_VALUES:,}")
        # A layer whose inputs are all zero has an `upper` of 0.
        if not 0 <= self.largest <= self.upper < math.inf:
            raise ValueError(
                f"largest and upper must be finite and 0 <= largest <= upper, got {self.largest:g} and {self.upper:g}"
            )


class CalibrationCache(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Histograms with the digests of their graph and images."""

    format: str = _FORMAT
    format_version: int = _FORMAT_VERSION
    graph_sha256: str
    """Digest of the FP32 graph used for calibration."""
    images_sha256: str
    """Digest of the images' pixels, in order; another decoding policy gives another digest."""
    num_images: int
    layers: dict[str, _Counts]
    sha256: str = ""
    """Digest of this record with an empty digest."""

    def mismatch(self, graph_sha256: str, images_sha256: str) -> str | None:
        """Return why the cache cannot be used for this graph and these images; None if it can."""
        if self.graph_sha256 != graph_sha256:
            return "made from another graph"
        if self.images_sha256 != images_sha256:
            return "made from other images, or from the same images with another decoding policy"
        return None

    def histograms(self) -> dict[str, Histogram]:
        """Return the histogram of each layer's input."""
        return {
            layer: Histogram(counts=np.array(kept.counts, dtype=np.int64), upper=kept.upper, largest=kept.largest)
            for layer, kept in self.layers.items()
        }


def save_cache(
    path: Path, histograms: dict[str, Histogram], *, graph_sha256: str, images_sha256: str, num_images: int
) -> None:
    """Write the file in one rename; raises ExportError if it cannot be written."""
    cache = CalibrationCache(
        graph_sha256=graph_sha256,
        images_sha256=images_sha256,
        num_images=num_images,
        layers={
            layer: _Counts(counts=tuple(found.counts.tolist()), upper=found.upper, largest=found.largest)
            for layer, found in histograms.items()
        },
    )
    try:
        write_atomically(path, msgspec.json.encode(msgspec.structs.replace(cache, sha256=_digest(cache))))
    except OSError as error:
        raise ExportError(f"{path}: the calibration cache cannot be written: {error.strerror}") from error


def load_cache(path: Path) -> CalibrationCache:
    """Read the file; raises ExportError if it is not a calibration cache or has changed since it was written."""
    try:
        cache = from_json(read_file(path, _MOST_BYTES), CalibrationCache)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ExportError(f"{path}: not a calibration cache: {error}; remove it, or name another file") from error
    whole = all(len(kept.counts) == NUM_BINS for kept in cache.layers.values())
    if (cache.format, cache.format_version) != (_FORMAT, _FORMAT_VERSION) or not whole:
        raise ExportError(f"{path}: a calibration cache of another format; remove it, or name another file")
    if cache.sha256 != _digest(cache):
        raise ExportError(f"{path}: has changed since it was written: the digest does not match; remove it")
    return cache


def _digest(cache: CalibrationCache) -> str:
    return sha256(msgspec.json.encode(msgspec.structs.replace(cache, sha256=""), order="deterministic"))
