"""Image files as batches for an engine, decoded ahead of their use, a few in memory at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead

BATCH_SIZE = 16


def decode_batches(files: Sequence[Path], resize: ResizePolicy) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 (N, 256, 256, 3), N up to BATCH_SIZE; raises DataError for one that is bad."""

    def read(path: Path) -> np.ndarray:
        try:
            return read_image(path, resize)
        except ImageError as error:
            raise DataError(f"{path}: cannot be compared on: {error}") from error

    images = map_ahead(read, files, threads=decode_threads(), ahead=2 * BATCH_SIZE)
    while batch := list(islice(images, BATCH_SIZE)):
        yield np.stack(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Files that were found to be images."""

    files: tuple[Path, ...]
    """Those that can be decoded, in their order."""
    excluded: tuple[tuple[Path, ImageError], ...]
    """Those that cannot."""
    sha256: str
    """Digest of the decoded pixels, in order: what a network sees of them."""


def look_through(files: Sequence[Path], resize: ResizePolicy) -> ImageSet:
    """Decode every file once; return those that are images, and the digest of what they show."""

    def look(path: Path) -> tuple[Path, bytes | ImageError]:
        try:
            return path, hashlib.sha256(read_image(path, resize).tobytes()).digest()
        except ImageError as error:
            return path, error.alone()

    digest = hashlib.sha256()
    good, excluded = [], []
    for path, found in map_ahead(look, files, threads=decode_threads(), ahead=2 * BATCH_SIZE):
        if isinstance(found, ImageError):
            excluded.append((path, found))
        else:
            digest.update(found)
            good.append(path)
    return ImageSet(files=tuple(good), excluded=tuple(excluded), sha256=digest.hexdigest())
