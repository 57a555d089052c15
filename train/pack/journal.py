"""The journal of unfinished packing: the chunks of images that are on disk, with their digests and sums."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import open_working
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.train.data.scan import ColorSums, Look

JOURNAL = "journal.jsonl"


class Chunk(Struct, frozen=True, kw_only=True):
    """A chunk that is on disk, and the totals after it."""

    num_seen: int
    """Images of the source that were read so far."""
    num_images: int = msgspec.field(name="num_pictures")
    """Images in the pack so far."""
    sources_bytes: int
    """Length of sources.txt so far."""
    sha256: str
    """Digest of the chunk's images."""
    sources_sha256: str
    """Digest of its lines in sources.txt."""
    excluded: tuple[tuple[int, str, str], ...]
    """Its images that could not be decoded: number in the source, name, error code."""
    num_pixels: int
    """Pixels of its training images; this and the next two fields are as in ColorSums."""
    total: tuple[int, ...]
    """Sum of their values."""
    products: tuple[tuple[int, ...], ...]
    """Sums of the products of two channels."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """The chunk that is being written; its fields become those of Chunk."""

    num_seen: int
    """Total over all chunks, like the next two fields."""
    num_images: int
    """Images in the pack so far."""
    sources_bytes: int
    """Length of sources.txt so far."""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    """Digest of the chunk's images."""
    sources_digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    """Digest of its lines in sources.txt."""
    excluded: list[tuple[int, str, str]] = field(default_factory=list)
    """Images that could not be decoded."""
    sums: ColorSums = field(default_factory=ColorSums)
    """Sums over the training images."""

    @classmethod
    def after(cls, chunks: Sequence[Chunk]) -> "Draft":
        """Return the empty chunk that follows these."""
        if not chunks:
            return cls(num_seen=0, num_images=0, sources_bytes=0)
        last = chunks[-1]
        return cls(num_seen=last.num_seen, num_images=last.num_images, sources_bytes=last.sources_bytes)

    def add(self, look: Look, images: BinaryIO, sources: BinaryIO, *, is_train: bool) -> None:
        """Write an image and its line, or record its error code."""
        if look.error is not None:
            self.excluded.append((self.num_seen, look.name, look.error.code.value))
        else:
            data = look.pixels.data
            images.write(data)
            sources.write(look.line)
            self.digest.update(data)
            self.sources_digest.update(look.line)
            self.num_images += 1
            self.sources_bytes += len(look.line)
            if is_train:
                self.sums.add(look.sums)
        self.num_seen += 1

    def finished(self) -> Chunk:
        """Return the journal's record of the chunk; call it once the images are on disk."""
        return Chunk(
            num_seen=self.num_seen,
            num_images=self.num_images,
            sources_bytes=self.sources_bytes,
            sha256=self.digest.hexdigest(),
            sources_sha256=self.sources_digest.hexdigest(),
            excluded=tuple(self.excluded),
            num_pixels=self.sums.num_pixels,
            total=tuple(self.sums.total.tolist()),
            products=tuple(tuple(row) for row in self.sums.products.tolist()),
        )


@contextmanager
def claimed(partial: Path, say: Say = say_nothing) -> Iterator[BinaryIO]:
    """Open and lock the journal, or say that it cannot be locked."""
    with open_working(partial / JOURNAL, "a+b") as journal:
        if is_taken(journal, partial, say):
            raise DataError(f"{partial}: another process is packing into it; wait for it to finish")
        yield journal


def noted_chunks(journal: BinaryIO) -> list[tuple[Chunk, int]]:
    """Return the journal's chunks and the length of each line, up to an incomplete line."""
    journal.seek(0)
    noted = []
    for line in journal.read().splitlines(keepends=True):
        try:
            chunk = from_json(line, Chunk)
        except msgspec.DecodeError:
            break
        if not line.endswith(b"\n"):
            break
        noted.append((chunk, len(line)))
    return noted


def ranges_of(chunks: Sequence[Chunk]) -> list[range]:
    """Return the range of images of each chunk; the last may be empty."""
    ends = [chunk.num_images for chunk in chunks]
    return [range(start, end) for start, end in pairwise([0, *ends])]
