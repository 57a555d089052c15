"""A packed set: images decoded once and stored as pixels, for training without decoding.

    PACK/pack.json      PackHeader
    PACK/pictures.u8    uint8 (N, 256, 256, 3), raw: the training images, then the validation images
    PACK/labels.i32     int32 (N,), little-endian
    PACK/sources.txt    one line per image: its name, and the SHA-256 of the bytes that it was decoded from

196,608 bytes per image: the 1,281,167 training images of ILSVRC-2012 are 251.9 GB, its 50,000 validation images 9.8 GB.
"""

import ast
import hashlib
import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.errors import DataError, WeightsError
from alexnet_deploy.core.fs.files import sha256, sha256_of_file
from alexnet_deploy.core.fs.opening import open_input, read_file
from alexnet_deploy.core.model.labels import check_labels
from alexnet_deploy.core.model.preprocessing import (
    DECODING_VERSION,
    IMAGE_SIZE,
    RGB,
    DecodePolicy,
    ImagePolicy,
    ResizePolicy,
)
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.records import ChangedRecordError, UnknownVersionError, read_sealed, seal
from alexnet_deploy.train.data.scan import Survey, digest_in, duplicates
from alexnet_deploy.train.data.source import LabelledSource

FORMAT_VERSION = 1

HEADER = "pack.json"
IMAGES = "pictures.u8"
LABELS = "labels.i32"
SOURCES = "sources.txt"

IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3

_PIECE_BYTES = 8 * 1024 * 1024

# ImageNet's header has 100 kB; a name has at most 4,096 bytes, which Python writes as at most four characters each.
_MAX_HEADER_BYTES = 1 << 27
_MAX_LINE_BYTES = 1 << 15

# A bytes literal of ASCII, and 64 digits.
_LINE = re.compile(rb"(b'(?:[^'\\\n]|\\.)*'|b\"(?:[^\"\\\n]|\\.)*\") [0-9a-f]{64}")


class PackHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Description of a packed set; independent of the number of threads and interruptions of packing."""

    format_version: int
    labels: tuple[str, ...]
    """Class names, in the order of the class numbers."""
    num_train: int
    """Number of training images, which come first."""
    num_validation: int
    """Number of validation images."""
    resize: ResizePolicy
    """How the images were resized to 256 x 256."""
    decode: DecodePolicy | msgspec.UnsetType = msgspec.UNSET
    """How they were decoded; unset in older packs, whose images are exact."""
    decoding: int | msgspec.UnsetType = msgspec.UNSET
    """Version of the decoding policy; unset in packs of version 1."""
    mean: RGB
    """RGB mean of the training images, on 0..255."""
    covariance: tuple[RGB, RGB, RGB]
    """RGB covariance of the training images, on 0..255."""
    source: str
    """Path of the packed data."""
    source_sha256: str
    """Digest of names and bytes, equal to the survey's; also the digest of sources.txt."""
    excluded: dict[str, str]
    """Images that could not be decoded and are not in the pack: name to error code."""
    chunk_images: int = msgspec.field(name="chunk_pictures")
    """Number of images per digest."""
    chunks_sha256: tuple[str, ...]
    """Digests of pictures.u8, one per chunk of images."""
    labels_sha256: str
    """Digest of labels.i32."""
    tools: dict[str, str]
    """Versions of the tools that decoded the images."""
    sha256: str = ""
    """Digest of this header with this field empty."""

    def __post_init__(self) -> None:
        """Raise ValueError if the counts or the labels are invalid."""
        if self.num_train < 1 or self.num_validation < 1 or self.chunk_images < 1:
            raise ValueError(
                f"num_train {self.num_train}, num_validation {self.num_validation} and chunk_pictures "
                f"{self.chunk_images} must each be 1 or more"
            )
        if len(self.chunks_sha256) != -(-self.num_images // self.chunk_images):
            raise ValueError(f"{len(self.chunks_sha256)} digests do not match {self.num_images:,} images")
        try:
            check_labels(self.labels, len(self.labels))
        except WeightsError as error:
            raise ValueError(str(error)) from error

    @property
    def image_policy(self) -> ImagePolicy:
        """How the image files were decoded and resized."""
        return ImagePolicy(resize=self.resize, decode="exact" if self.decode is msgspec.UNSET else self.decode)

    @property
    def num_images(self) -> int:
        """Training and validation images together."""
        return self.num_train + self.num_validation


def encode_header(header: PackHeader) -> bytes:
    """Return the content of pack.json, with its digest."""
    sealed = seal(header, order=None)
    return msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n"


@dataclass(frozen=True, kw_only=True)
class Pack:
    """An open packed set."""

    path: Path
    """Its directory."""
    header: PackHeader
    """Its description."""
    images: np.ndarray = field(repr=False, compare=False)
    """uint8 (N, 256, 256, 3), mapped from the file; read-only."""
    labels: np.ndarray = field(repr=False, compare=False)
    """Label of each image, int64 (N,)."""
    mapping: mmap.mmap = field(repr=False, compare=False)
    """The memory map of `images`."""

    def __reduce__(self) -> tuple[Callable[[Path], "Pack"], tuple[Path]]:
        """Reopen in the process that receives it: a memory map cannot be shared by pickling."""
        return open_pack, (self.path,)

    @cached_property
    def _sources(self) -> list[bytes]:
        return self._read_sources()

    def _read_sources(self) -> list[bytes]:
        try:
            data = read_file(self.path / SOURCES, _MAX_LINE_BYTES * self.header.num_images)
        except OSError as error:
            raise DataError(f"{self.path / SOURCES}: cannot be read: {error.strerror}") from error
        lines = data.splitlines()
        if sha256(data) != self.header.source_sha256 or len(lines) != self.header.num_images:
            raise DataError(f"{self.path / SOURCES}: was changed after packing; pack again into another directory")
        return lines

    def name_of(self, number: int) -> str:
        """Return an image's name in its source; raises DataError if it cannot be read."""
        return _name_in(self._sources[number], self.path / SOURCES)

    def duplicates(self) -> list[tuple[int, int]]:
        """Return pairs of a training and a validation image that were decoded from identical bytes.

        Raises DataError if sources.txt cannot be read.
        """
        # Not cached: ImageNet's lines are some 200 MB, and a run without duplicates does not need them again.
        lines = self._read_sources()
        try:
            digests = [digest_in(line) for line in lines]
        except (ValueError, IndexError) as error:
            raise DataError(f"{self.path / SOURCES}: has a line without a digest; pack again") from error
        num_train = self.header.num_train
        pairs = duplicates(digests[:num_train], digests[num_train:])
        return [(one, num_train + other) for one, other in pairs]

    def expect(self, numbers: np.ndarray) -> None:
        """Prefetch these images from the disk into memory, without waiting.

        Raises ValueError if a number is out of range.
        """
        for number in numbers.tolist():
            self.mapping.madvise(mmap.MADV_WILLNEED, number * IMAGE_BYTES, IMAGE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedImage:
    """One image of a packed set."""

    pack: Pack
    """The set."""
    number: int
    """Its number in the set."""

    @property
    def name(self) -> str:
        """Its name in the source."""
        return self.pack.name_of(self.number)

    @property
    def label(self) -> int:
        """Its class, an index into the labels."""
        return int(self.pack.labels[self.number])

    @property
    def place(self) -> str:
        """The set's path and its own name."""
        return f"{self.pack.path}, {self.name}"

    def read(self) -> bytes:
        """Return its pixels."""
        return bytes(self.pack.images[self.number].data)

    def decode(self, data: bytes, policy: ImagePolicy) -> np.ndarray:
        """Return the bytes from `read` as uint8 (256, 256, 3); `policy` must be the set's."""
        assert policy == self.pack.header.image_policy
        return np.frombuffer(data, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3).copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSide(Sequence[PackedImage]):
    """The training or the validation images of a packed set."""

    pack: Pack
    """The set."""
    numbers: range
    """Their numbers in the set."""

    @property
    def labels(self) -> np.ndarray:
        """Labels, int64 (N,)."""
        return self.pack.labels[self.numbers.start : self.numbers.stop]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> PackedImage: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedSide": ...

    def __getitem__(self, index: int | slice) -> "PackedImage | PackedSide":
        if isinstance(index, slice):
            return PackedSide(pack=self.pack, numbers=self.numbers[index])
        return PackedImage(pack=self.pack, number=self.numbers[index])


def class_counts(source: LabelledSource) -> tuple[int, ...]:
    """Return the number of training images of each class."""
    side = source.train
    labels = side.labels if isinstance(side, PackedSide) else np.array([example.label for example in side], np.int64)
    return tuple(np.bincount(labels, minlength=len(source.class_names)).tolist())


def is_packed(path: Path) -> bool:
    """Return whether a directory has the header of a packed set."""
    return (path / HEADER).is_file()


def packed_from(path: Path) -> Path:
    """Return the source path of a packed set, and any other path unchanged; raises DataError for a damaged header."""
    return Path(_read_header(path).source) if is_packed(path) else path


def open_pack(path: Path) -> Pack:
    """Open a packed set: check the header, labels, sources and the size of the images, but not their pixels.

    Raises DataError if something is missing, damaged, or of another format; `verify` checks the pixels.
    """
    header = _read_header(path)
    if header.decoding != DECODING_VERSION:
        raise DataError(
            f"{path}: its images were decoded by policy {header.decoding or 1}, but this program decodes by policy "
            f"{DECODING_VERSION}, which gives different pixels; pack again into another directory"
        )
    labels = _read(path / LABELS, 4 * header.num_images)
    if sha256(labels) != header.labels_sha256 or len(labels) != 4 * header.num_images:
        raise DataError(f"{path / LABELS}: was changed after packing; pack again into another directory")
    numbers = np.frombuffer(labels, "<i4").astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= len(header.labels):
        raise DataError(
            f"{path / LABELS}: has class {numbers.max() if numbers.min() >= 0 else numbers.min()}, but classes are 0 "
            f"to {len(header.labels) - 1}; pack again into another directory"
        )
    wanted = header.num_images * IMAGE_BYTES
    try:
        with open_input(path / IMAGES) as file:
            if (found := os.fstat(file.fileno()).st_size) != wanted:
                raise DataError(
                    f"{path / IMAGES}: has {counted(found, 'byte')}, but {wanted:,} were packed; pack again"
                )
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path / IMAGES}: cannot be read: {error.strerror}") from error
    if _digest_of(path / SOURCES) != header.source_sha256:
        raise DataError(f"{path / SOURCES}: was changed after packing; pack again into another directory")
    images = np.frombuffer(mapping, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3)
    return Pack(path=path, header=header, images=images, labels=numbers, mapping=mapping)


def survey_of(pack: Pack, policy: ImagePolicy) -> Survey:
    """Return the same survey as of the images before packing.

    Raises DataError if their image policy is not `policy`.
    """
    header = pack.header
    if header.image_policy != policy:
        raise DataError(
            f"{pack.path}: was packed with {header.image_policy}, but this network needs {policy}; pack again"
        )
    train, validation = (
        PackedSide(pack=pack, numbers=numbers)
        for numbers in (range(header.num_train), range(header.num_train, header.num_images))
    )
    return Survey(
        folder=LabelledSource(root=pack.path, class_names=header.labels, train=train, validation=validation),
        excluded=header.excluded,
        sha256=header.source_sha256,
        mean=np.array(header.mean),
        covariance=np.array(header.covariance),
        duplicates=tuple((pack.name_of(one), pack.name_of(other)) for one, other in pack.duplicates()),
    )


def verify(pack: Pack, threads: int | None = None) -> Iterator[int]:
    """Read all images and compare them with their digests; yield the number of images checked so far.

    Raises DataError, which names the changed images.
    """
    header = pack.header
    starts = range(0, header.num_images, header.chunk_images)
    chunks = [range(start, min(start + header.chunk_images, header.num_images)) for start in starts]
    digests = digests_of(pack.path / IMAGES, chunks, threads)
    for chunk, found, wanted in zip(chunks, digests, header.chunks_sha256, strict=True):
        if found != wanted:
            raise DataError(
                f"{pack.path / IMAGES}: images {chunk.start:,} to {chunk.stop - 1:,} were changed after packing; "
                "pack again into another directory"
            )
        yield chunk.stop


def digests_of(images: Path, chunks: Sequence[range], threads: int | None = None) -> Iterator[str]:
    """Yield the SHA-256 of each range of images in a file, in order; raises DataError if it cannot be read."""
    threads = threads or decode_threads()
    return map_ahead(lambda chunk: _digest_of(images, chunk), chunks, threads=threads, ahead=threads)


def _digest_of(path: Path, images: range | None = None) -> str:
    try:
        if images is None:
            return sha256_of_file(path)
        digest = hashlib.sha256()
        with open_input(path) as file:
            file.seek(images.start * IMAGE_BYTES)
            left = len(images) * IMAGE_BYTES
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                digest.update(piece)
                left -= len(piece)
        return digest.hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _name_in(line: bytes, place: Path) -> str:
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError(f"{place}: a line is not a name and a digest; pack again")
    name: bytes = ast.literal_eval(match[1].decode())
    return os.fsdecode(name)


def _read_header(path: Path) -> PackHeader:
    data = _read(path / HEADER, _MAX_HEADER_BYTES)
    try:
        return read_sealed(data, PackHeader, "packed set", (FORMAT_VERSION,), order=None)
    except UnknownVersionError as error:
        raise DataError(f"{path}: {error}; pack again") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{path / HEADER}: is damaged: {error}; pack again into another directory") from error
    except ChangedRecordError as error:
        raise DataError(f"{path / HEADER}: was changed after packing; pack again into another directory") from error


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return read_file(path, max_bytes)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
