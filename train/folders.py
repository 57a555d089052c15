"""Folders of pictures: one folder a class, in `train/` and `val/`, or split by the hash of the name."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.image import decode_image, read_file
from alexnet_deploy.core.inputs import find_inputs
from alexnet_deploy.core.labelled import LabelledPicture, class_names
from alexnet_deploy.core.preprocessing import ResizePolicy
from alexnet_deploy.train.sources import PictureSource

_VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePicture(LabelledPicture):
    """A picture in a file of its own."""

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
        """Return the picture in them, uint8 (256, 256, 3); raises ImageError."""
        return decode_image(data, resize)


def find_in_folder(root: Path) -> PictureSource:
    """Return the labelled pictures below `root`, unopened.

    `root/train/CLASS/...` and `root/val/CLASS/...`; or `root/CLASS/...`, of which a tenth, chosen by the hash of its
    name (so that adding pictures moves no other), is kept for validation. Raises DataError where train/ and val/ do not
    have the same classes.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'there is no such folder'}")
    if (root / "train").is_dir():
        labels = class_names(root / "train")
        if not (root / "val").is_dir():
            raise DataError(f"{root}: has train/ but no val/; without both, put the class folders right below it")
        if (others := class_names(root / "val")) != labels:
            raise DataError(f"{root}: train/ and val/ differ in {', '.join(sorted(set(labels) ^ set(others)))}")
        train, validation = (_examples(root, root / side, labels) for side in ("train", "val"))
    else:
        labels = class_names(root)
        everything = _examples(root, root, labels)
        validation = tuple(example for example in everything if _is_kept(example.path.relative_to(root)))
        train = tuple(example for example in everything if not _is_kept(example.path.relative_to(root)))
    return PictureSource(root=root, labels=labels, train=train, validation=validation)


def _examples(root: Path, folder: Path, labels: tuple[str, ...]) -> tuple[FilePicture, ...]:
    return tuple(
        FilePicture(path=found.path, label=label, root=root)
        for label, name in enumerate(labels)
        for found in find_inputs([folder / name])
    )


def _is_kept(name: Path) -> bool:
    number = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
    return number < _VALIDATION_SHARE * 2**64
