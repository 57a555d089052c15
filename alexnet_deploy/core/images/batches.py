"""Batches of decoded images for an engine, prefetched, with few in memory at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead

BATCH_SIZE = 16


class StoredImage(Protocol):
    """One image inside a larger file, such as an archive or a packed set, not yet read."""

    @property
    def place(self) -> str:
        """Location of the image, for messages."""

    def read(self) -> bytes:
        """Return its bytes as they are stored; raises ImageError."""

    def decode(self, data: bytes, policy: ImagePolicy) -> np.ndarray:
        """Return the bytes from `read` decoded as uint8 (256, 256, 3), RGB, upright; raises ImageError."""


Source: TypeAlias = Path | StoredImage
"""Where an image comes from: a file of its own, or a larger file that contains it."""


def decode_batches(sources: Sequence[Source], policy: ImagePolicy) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 (N, 256, 256, 3), N up to BATCH_SIZE; raises DataError if one is unreadable."""

    def read(source: Source) -> np.ndarray:
        try:
            return _pixels(source, policy)
        except ImageError as error:
            raise DataError(f"{place_of(source)}: cannot be decoded: {error}") from error

    images = map_ahead(read, sources, threads=decode_threads(), ahead=2 * BATCH_SIZE)
    while batch := list(islice(images, BATCH_SIZE)):
        yield np.stack(batch)


def place_of(source: Source) -> str:
    """Return the location of an image, for messages."""
    return str(source) if isinstance(source, Path) else source.place


def _pixels(source: Source, policy: ImagePolicy) -> np.ndarray:
    return read_image(source, policy) if isinstance(source, Path) else source.decode(source.read(), policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """The result of decoding a list of images once."""

    sources: tuple[Source, ...]
    """Images that can be decoded, in order."""
    excluded: tuple[tuple[Source, ImageError], ...]
    """Images that cannot be decoded, with the reason."""
    sha256: str
    """Digest of the decoded pixels, in order: the input of the network."""


def look_through(sources: Sequence[Source], policy: ImagePolicy) -> ImageSet:
    """Decode every image once; return the images that can be decoded and the digest of their pixels."""

    def look(source: Source) -> tuple[Source, bytes | ImageError]:
        try:
            return source, hashlib.sha256(_pixels(source, policy).tobytes()).digest()
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
