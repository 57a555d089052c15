"""Folders of images: one per class, in `train/` and `val/`, or split within each class by the hash of the file name."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from alexnet_deploy.core.codecs.formats import USUAL_ENDINGS
from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.images.decode import decode_image, read_file
from alexnet_deploy.core.inputs.labelled import (
    VALIDATION_FOLDERS,
    LabelledImage,
    class_names,
    differing_classes,
    validation_folder,
)
from alexnet_deploy.core.inputs.paths import find_files
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.train.data.source import LabelledSource

# One image in this many of a class is used for validation.
_VALIDATION_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile(LabelledImage):
    """An image file."""

    root: Path
    """The folder that its name is relative to."""

    @property
    def name(self) -> str:
        """Its path relative to the root."""
        return str(self.path.relative_to(self.root))

    @property
    def place(self) -> str:
        """Its path."""
        return str(self.path)

    def read(self) -> bytes:
        """Return the file's bytes; raises ImageError."""
        return read_file(self.path)

    def decode(self, data: bytes, policy: ImagePolicy) -> np.ndarray:
        """Decode these bytes to uint8 (256, 256, 3); raises ImageError."""
        return decode_image(data, policy)


def find_in_folder(root: Path) -> LabelledSource:
    """Return the labelled images below `root`, without opening them.

    `root/train/CLASS/...` and `root/val/CLASS/...` (or valid/, validation/, test/, see validation_folder); or
    `root/CLASS/...`, where kept_for_validation selects a tenth of each class. Raises DataError if the two sides have
    different classes, or if a folder cannot be listed.
    """
    if not root.is_dir():
        found = "is a file, not a folder of images by class" if root.exists() else "there is no such folder"
        raise DataError(f"{root}: {found}")
    side = None
    if (root / "train").is_dir():
        names = class_names(root / "train")
        side = validation_folder(root)
        if side is None:
            places = ", ".join(f"{name}/" for name in VALIDATION_FOLDERS)
            raise DataError(
                f"{root}: has train/ but no validation folder ({places}); add one, or put the class folders directly "
                "in it"
            )
        if others := differing_classes("train/", names, f"{side.name}/", class_names(side)):
            raise DataError(f"{root}: {others}")
        train, validation = (_examples(root, folder, names) for folder in (root / "train", side))
    else:
        names = class_names(root)
        train, validation = [], []
        for examples in _examples(root, root, names):
            kept = kept_for_validation([example.path.relative_to(root) for example in examples])
            train.append(tuple(example for number, example in enumerate(examples) if number not in kept))
            validation.append(tuple(examples[number] for number in sorted(kept)))
    return LabelledSource(
        root=root,
        class_names=names,
        train=tuple(chain(*train)),
        validation=tuple(chain(*validation)),
        validation_folder=None if side is None else side.name,
    )


def kept_for_validation(names: Sequence[Path]) -> frozenset[int]:
    """Return the numbers of a class's validation images: the tenth whose names have the lowest hashes.

    With two images or more, each side gets at least one. Adding an image moves at most one other image to the other
    side, because names are ranked by hash. Files without an image ending are used for validation only if the class has
    fewer than two image files.
    """
    images = [number for number, name in enumerate(names) if name.suffix.lower() in USUAL_ENDINGS]
    ranked = sorted(images if len(images) > 1 else range(len(names)), key=lambda number: _rank(names[number]))
    share = (len(ranked) + _VALIDATION_EVERY // 2) // _VALIDATION_EVERY
    return frozenset(ranked[: max(1, share)] if len(ranked) > 1 else ())


def _rank(name: Path) -> bytes:
    return hashlib.sha256(os.fsencode(name)).digest()


def _examples(root: Path, folder: Path, names: Sequence[str]) -> list[tuple[ImageFile, ...]]:
    """Return the images of each class; raises DataError if a folder cannot be listed."""
    return [
        tuple(ImageFile(path=path, label=label, root=root) for path in find_files(folder / name))
        for label, name in enumerate(names)
    ]
