"""Images as batches for an engine, decoded ahead of their use, a few in memory at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead

BATCH_SIZE = 16


class StoredImage(Protocol):
    """One image in something larger than a file of its own, not yet read: an archive, a packed set."""

    @property
    def place(self) -> str:
        """Where a person finds it."""

    def read(self) -> bytes:
        """Return its bytes as they are stored; raises ImageError."""

    def decode(self, data: bytes, resize: ResizePolicy) -> np.ndarray:
        """Return what `read` gave as uint8 (256, 256, 3), RGB, upright; raises ImageError."""


Source: TypeAlias = Path | StoredImage
"""Where an image comes from: a file, or something that holds it."""


def decode_batches(sources: Sequence[Source], resize: ResizePolicy) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 (N, 256, 256, 3), N up to BATCH_SIZE; raises DataError for one that is bad."""

    def read(source: Source) -> np.ndarray:
        try:
            return _pixels(source, resize)
        except ImageError as error:
            raise DataError(f"{place_of(source)}: cannot be compared on: {error}") from error

    images = map_ahead(read, sources, threads=decode_threads(), ahead=2 * BATCH_SIZE)
    while batch := list(islice(images, BATCH_SIZE)):
        yield np.stack(batch)


def place_of(source: Source) -> str:
    """Return where a person finds an image."""
    return str(source) if isinstance(source, Path) else source.place


def _pixels(source: Source, resize: ResizePolicy) -> np.ndarray:
    return read_image(source, resize) if isinstance(source, Path) else source.decode(source.read(), resize)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images that were looked through."""

    sources: tuple[Source, ...]
    """Those that can be decoded, in their order."""
    excluded: tuple[tuple[Source, ImageError], ...]
    """Those that cannot."""
    sha256: str
    """Digest of the decoded pixels, in order: what a network sees of them."""


def look_through(sources: Sequence[Source], resize: ResizePolicy) -> ImageSet:
    """Decode every image once; return those that can be, and the digest of what they show."""

    def look(source: Source) -> tuple[Source, bytes | ImageError]:
        try:
            return source, hashlib.sha256(_pixels(source, resize).tobytes()).digest()
        except ImageError as error:
            return source, error.alone()

    digest = hashlib.sha256()
    good, excluded = [], []
    for source, found in map_ahead(look, sources, threads=decode_threads(), ahead=2 * BATCH_SIZE):
        if isinstance(found, ImageError):
            excluded.append((source, found))
        else:
            digest.update(found)
            good.append(source)
    return ImageSet(sources=tuple(good), excluded=tuple(excluded), sha256=digest.hexdigest())
