"""CIFAR-10, binary version: the archive as downloaded, or its .bin files.

A record is one label byte and 32 x 32 pixels: the red plane, the green plane, the blue plane, each row by row. The test
batch is used for validation. Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.train.data.source import LabelledSource
from alexnet_deploy.train.data.tar import unpack

ARCHIVE = "cifar-10-binary.tar.gz"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
VALIDATION = "test_batch.bin"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_SIDE = 32
_NUM_BYTES = 1 + 3 * _SIDE * _SIDE

# The six published batches are 184 MB.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An image in a batch file."""

    batch: bytes = field(repr=False)
    """The whole file, shared by its records."""
    name: str
    """Side, class, file and number: train/cat/data_batch_1.bin:00042."""
    label: int
    """Its class, an index into the labels."""
    offset: int
    """Byte offset in the file."""

    @property
    def place(self) -> str:
        """Its name."""
        return self.name

    def read(self) -> bytes:
        """Return the record, 3073 bytes."""
        return self.batch[self.offset : self.offset + _NUM_BYTES]

    def decode(self, data: bytes, policy: ImagePolicy) -> np.ndarray:
        """Return the image in it, uint8 (256, 256, 3)."""
        planes = np.frombuffer(data, np.uint8, offset=1).reshape(3, _SIDE, _SIDE)
        return to_square(Image.fromarray(planes.transpose(1, 2, 0)), policy.resize)


def is_cifar10(root: Path) -> bool:
    """Return whether `root` is the archive, or a folder with the archive or its batches."""
    return root.name == ARCHIVE or (root / ARCHIVE).exists() or _folder(root) is not None


def find_cifar10(root: Path) -> LabelledSource:
    """Return the labelled images of the archive or the batches, all in memory (184 MB).

    Raises DataError if a batch is missing or malformed, or the archive is damaged.
    """
    batches = _batches(root, (*TRAIN, VALIDATION))
    if missing := [name for name in (*TRAIN, VALIDATION) if name not in batches]:
        raise DataError(f"{root}: has no {missing[0]}; the five training batches and {VALIDATION} are needed")
    return LabelledSource(
        root=root,
        class_names=LABELS,
        train=tuple(record for name in TRAIN for record in _records(root, "train", name, batches[name])),
        validation=tuple(_records(root, "val", VALIDATION, batches[VALIDATION])),
    )


def find_cifar10_test(root: Path) -> tuple[Record, ...]:
    """Return the labelled images of the test batch; the training batches are not needed.

    Raises DataError if the batch is missing or malformed, or the archive is damaged.
    """
    batches = _batches(root, (VALIDATION,))
    if VALIDATION not in batches:
        raise DataError(f"{root}: has no {VALIDATION}")
    return tuple(_records(root, "val", VALIDATION, batches[VALIDATION]))


def _batches(root: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of those batches that exist, by name."""
    folder = _folder(root)
    if folder is not None:
        return {path.name: _read(path) for name in names if (path := folder / name).exists()}
    return unpack(root if root.name == ARCHIVE else root / ARCHIVE, names, _MAX_BYTES)


def _folder(root: Path) -> Path | None:
    places = (root, root / "cifar-10-batches-bin")
    return next((place for place in places if (place / TRAIN[0]).exists() or (place / VALIDATION).exists()), None)


def _read(path: Path) -> bytes:
    try:
        return read_file(path, _MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _records(root: Path, side: str, name: str, batch: bytes) -> list[Record]:
    if not batch or len(batch) % _NUM_BYTES:
        raise DataError(
            f"{root}: {name} has {counted(len(batch), 'byte')}, not a multiple of {_NUM_BYTES:,}; download it again"
        )
    records = []
    for number, offset in enumerate(range(0, len(batch), _NUM_BYTES)):
        label = batch[offset]
        if label >= len(LABELS):
            raise DataError(f"{root}: record {number} of {name} has class {label}, but classes are 0 to 9")
        records.append(
            Record(batch=batch, name=f"{side}/{LABELS[label]}/{name}:{number:05}", label=label, offset=offset)
        )
    return records
