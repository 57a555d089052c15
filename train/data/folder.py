"""Folders of images: one folder a class, in `train/` and `val/`, or split class by class by the hash of the name."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.images.decode import decode_image, read_file
from alexnet_deploy.core.inputs.labelled import (
    VALIDATION_FOLDERS,
    LabelledImage,
    class_names,
    differing_classes,
    validation_folder,
)
from alexnet_deploy.core.inputs.paths import find_inputs
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.train.data.source import LabelledSource

# One of so many images of a class is kept for validation.
_VALIDATION_EVERY = 10

# What an image's file usually ends in: sidecars and stray files take no image's place in the validation share.
_IMAGE_ENDINGS = frozenset(
    (
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile(LabelledImage):
    """An image in a file of its own."""

    root: Path
    """What its name is below."""

    @property
    def name(self) -> str:
        """Its path below the root."""
        return str(self.path.relative_to(self.root))

    @property
    def place(self) -> str:
        """Its path."""
        return str(self.path)

    def read(self) -> bytes:
        """Return the file's bytes; raises ImageError."""
        return read_file(self.path)

    def decode(self, data: bytes, resize: ResizePolicy) -> np.ndarray:
        """Return the image in them, uint8 (256, 256, 3); raises ImageError."""
        return decode_image(data, resize)


def find_in_folder(root: Path) -> LabelledSource:
    """Return the labelled images below `root`, unopened.

    `root/train/CLASS/...` and `root/val/CLASS/...` (or valid/, validation/, test/, see validation_folder); or
    `root/CLASS/...`, of which kept_for_validation takes a tenth of each class. Raises DataError where the two sides do
    not have the same classes.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'there is no such folder'}")
    side = None
    if (root / "train").is_dir():
        labels = class_names(root / "train")
        side = validation_folder(root)
        if side is None:
            places = ", ".join(f"{name}/" for name in VALIDATION_FOLDERS)
            raise DataError(
                f"{root}: has train/ but no validation folder ({places}); add one, or put the class folders right "
                "below it"
            )
        if others := differing_classes("train/", labels, f"{side.name}/", class_names(side)):
            raise DataError(f"{root}: {others}")
        train, validation = (_examples(root, folder, labels) for folder in (root / "train", side))
    else:
        labels = class_names(root)
        train, validation = [], []
        for examples in _examples(root, root, labels):
            kept = kept_for_validation([example.path.relative_to(root) for example in examples])
            train.append(tuple(example for number, example in enumerate(examples) if number not in kept))
            validation.append(tuple(examples[number] for number in sorted(kept)))
    return LabelledSource(
        root=root,
        labels=labels,
        train=tuple(chain(*train)),
        validation=tuple(chain(*validation)),
        validation_folder=None if side is None else side.name,
    )


def kept_for_validation(names: Sequence[Path]) -> frozenset[int]:
    """Return which images of one class are kept for validation: a tenth of them, those whose names hash lowest.

    At least one is kept and at least one is not, from two images on. An image that is added moves at most one other to
    the other side: the hash ranks the names, and the rank decides. Files whose ending is not an image's are kept only
    where the class has fewer than two others.
    """
    images = [number for number, name in enumerate(names) if name.suffix.lower() in _IMAGE_ENDINGS]
    ranked = sorted(images if len(images) > 1 else range(len(names)), key=lambda number: _rank(names[number]))
    share = (len(ranked) + _VALIDATION_EVERY // 2) // _VALIDATION_EVERY
    return frozenset(ranked[: max(1, share)] if len(ranked) > 1 else ())


def _rank(name: Path) -> bytes:
    return hashlib.sha256(os.fsencode(name)).digest()


def _examples(root: Path, folder: Path, labels: Sequence[str]) -> list[tuple[ImageFile, ...]]:
    """Return the images of each class."""
    return [
        tuple(ImageFile(path=found.path, label=label, root=root) for found in find_inputs([folder / name]))
        for label, name in enumerate(labels)
    ]
