"""Labelled images of any format: find them, survey them once, decode them on demand."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ImagePolicy
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead
from alexnet_deploy.train.data.cifar10 import find_cifar10, is_cifar10
from alexnet_deploy.train.data.folder import find_in_folder
from alexnet_deploy.train.data.ilsvrc import find_ilsvrc, is_ilsvrc
from alexnet_deploy.train.data.source import Example, LabelledSource, check_source

# Pairs of a format's test and its reader; the first format that fits is used, otherwise the folder reader.
_FORMATS: tuple[tuple[Callable[[Path], bool], Callable[[Path], LabelledSource]], ...] = (
    (is_ilsvrc, find_ilsvrc),
    (is_cifar10, find_cifar10),
)

# Images decoded ahead: 12 MiB.
_AHEAD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Result of one pass over all images."""

    folder: LabelledSource
    """The images that can be decoded."""
    excluded: dict[str, str]
    """Images that cannot be decoded: path relative to the root, to error code."""
    sha256: str
    """Digest of the names and bytes of the decodable images."""
    mean: np.ndarray
    """RGB mean of the training images, float64 (3,), on 0..255."""
    covariance: np.ndarray
    """RGB covariance of the training images, float64 (3, 3), on 0..255."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """Training and validation images with identical bytes: pairs of names, one per validation image."""


@dataclass(slots=True, kw_only=True)
class ColorSums:
    """Sums over pixels, RGB on 0..255; integers, so the order of addition does not matter."""

    num_pixels: int = 0
    """Number of pixels."""
    total: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    """Sum of the values, int64 (3,)."""
    products: np.ndarray = field(default_factory=lambda: np.zeros((3, 3), np.int64))
    """Sum of the products of two channels, int64 (3, 3)."""

    def add(self, other: "ColorSums") -> None:
        """Add the pixels of another."""
        self.num_pixels += other.num_pixels
        self.total += other.total
        self.products += other.products

    @property
    def mean(self) -> np.ndarray:
        """Mean, float64 (3,)."""
        return np.asarray(self.total / self.num_pixels)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance, float64 (3, 3)."""
        return np.asarray(self.products / self.num_pixels - np.outer(self.mean, self.mean))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Result of reading and decoding one image."""

    example: Example
    """The image."""
    error: ImageError | None = None
    """Why it cannot be decoded; the fields below are empty then."""
    line: bytes = b""
    """Its name and the SHA-256 of its bytes, as they enter the survey's digest."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    """uint8 (256, 256, 3), RGB, upright."""
    sums: ColorSums = field(default_factory=ColorSums)
    """Sums over its pixels."""

    @property
    def name(self) -> str:
        """Its name as text that any encoding can hold."""
        return _text(self.example)


def is_archived(root: Path) -> bool:
    """Return whether `root` has a data set in archives or batch files (see _FORMATS), not in image files."""
    return any(fits(root) for fits, _ in _FORMATS)


def find_images(root: Path) -> LabelledSource:
    """Return the labelled images in `root`, not decoded: archives of ILSVRC-2012 or CIFAR-10, or else a folder.

    Raises DataError unless two classes or more have training and validation images, or if a class name cannot be a
    label, or an archive is damaged.
    """
    find = next((find for fits, find in _FORMATS if fits(root)), find_in_folder)
    source = find(root)
    check_source(source)
    return source


def look_at_each(examples: Sequence[Example], policy: ImagePolicy, threads: int | None = None) -> Iterator[Look]:
    """Read and decode every image, in order, in `threads` threads; at most a few dozen are in memory at a time."""
    return map_ahead(
        lambda example: _look_at(example, policy), examples, threads=threads or decode_threads(), ahead=_AHEAD
    )


def survey(source: LabelledSource, policy: ImagePolicy) -> Survey:
    """Read and decode every image once: list those that cannot be decoded, and sum and digest the rest.

    Raises DataError if too few are left.
    """
    digest = hashlib.sha256()
    excluded: dict[str, str] = {}
    good: dict[str, list[Example]] = {"train": [], "validation": []}
    digests: dict[str, list[bytes]] = {"train": [], "validation": []}
    sums = ColorSums()
    for side, examples in (("train", source.train), ("validation", source.validation)):
        for look in look_at_each(examples, policy):
            if look.error is not None:
                excluded[look.name] = look.error.code.value
                continue
            digest.update(look.line)
            good[side].append(look.example)
            digests[side].append(digest_in(look.line))
            if side == "train":
                sums.add(look.sums)
    kept = replace(source, train=tuple(good["train"]), validation=tuple(good["validation"]))
    check_source(kept)
    pairs = duplicates(digests["train"], digests["validation"])
    return Survey(
        folder=kept,
        excluded=excluded,
        sha256=digest.hexdigest(),
        mean=sums.mean,
        covariance=sums.covariance,
        duplicates=tuple((_text(kept.train[one]), _text(kept.validation[other])) for one, other in pairs),
    )


def digest_in(line: bytes) -> bytes:
    """Return the SHA-256, 32 bytes, at the end of an image's line in a survey."""
    return bytes.fromhex(line.rsplit(b" ", 1)[1].decode())


def duplicates(train: Sequence[bytes], validation: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return, for each validation digest that is also a training digest, the first training index and its own index."""
    wanted = frozenset(validation)
    first: dict[bytes, int] = {}
    for place, digest in enumerate(train):
        if digest in wanted:
            first.setdefault(digest, place)
    return [(first[digest], place) for place, digest in enumerate(validation) if digest in first]


class DecodedImages:
    """Decoded images, uint8 (256, 256, 3), with their labels, read from their files each time."""

    def __init__(self, examples: Sequence[Example], policy: ImagePolicy, threads: int | None = None) -> None:
        """Use this many threads to decode ahead; decode_threads() unless given."""
        self._examples = examples
        self._policy = policy
        self._threads = threads or decode_threads()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return one image and its label; raises DataError if it cannot be read any more."""
        example = self._examples[index]
        try:
            return example.decode(example.read(), self._policy), example.label
        except ImageError as error:
            raise DataError(f"{example.place}: cannot be read any more; it could be read before: {error}") from error

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images, uint8 (N, 256, 256, 3), and targets, int64 (N,), for each tensor of numbers."""
        order = torch.cat([torch.empty(0, dtype=torch.int64), *numbers]).tolist()
        # One batch ahead, so that the next batch is complete when it is needed.
        ahead = max(map(len, numbers), default=0)
        with closing(map_ahead(self.__getitem__, order, threads=self._threads, ahead=ahead)) as decoded:
            for batch in numbers:
                images = np.empty((len(batch), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
                targets = np.empty(len(batch), dtype=np.int64)
                for place, image in enumerate(islice(decoded, len(batch))):
                    images[place], targets[place] = image
                yield torch.from_numpy(images), torch.from_numpy(targets)


def _text(example: Example) -> str:
    """Return the name as text that any encoding can hold."""
    return Input(name=example.name).text


def _look_at(example: Example, policy: ImagePolicy) -> Look:
    try:
        data = example.read()
        pixels = example.decode(data, policy)
    except ImageError as error:
        return Look(example=example, error=error.alone())
    line = f"{os.fsencode(example.name)!r} {sha256(data)}\n".encode()
    return Look(example=example, line=line, pixels=pixels, sums=color_sums(pixels))


def color_sums(pixels: np.ndarray) -> ColorSums:
    """Return the sums over one image, uint8 (256, 256, 3)."""
    # An image's sums are integers under 2^53, which float64 holds exactly. Products of rows took 0.3 ms; products of
    # columns, the order of the pixels in memory, 2.2 ms.
    values = np.empty((3, IMAGE_SIZE**2))
    values[:] = pixels.reshape(-1, 3).T
    return ColorSums(
        num_pixels=IMAGE_SIZE**2,
        total=values.sum(axis=1).astype(np.int64),
        products=(values @ values.T).astype(np.int64),
    )
