"""A folder of labelled pictures to measure on: one folder a class, the classes those of trained weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.files import sha256_of_file
from alexnet_deploy.core.inputs import find_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPicture:
    """One picture whose class is known."""

    path: Path
    """Its file."""
    label: int
    """Its class, an index into the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFolder:
    """Labelled pictures, sorted by class and name."""

    root: Path
    """The folder that holds one folder for each class."""
    pictures: tuple[LabelledPicture, ...]
    """One or more."""
    sha256: str
    """Digest of their names below the root and their bytes."""


def is_labelled(folder: Path, labels: Sequence[str]) -> bool:
    """Return whether the folder, or its val, holds folders, all of which are named after `labels`."""
    root = _root(folder)
    return root.is_dir() and bool(names := class_names(root)) and set(names) <= set(labels)


def find_labelled(folder: Path, labels: Sequence[str]) -> LabelledFolder:
    """Return the pictures in `folder`/val/CLASS, or `folder`/CLASS where there is no val.

    Raises DataError where a folder is no class of `labels`, there is no picture, or one cannot be read.
    """
    root = _root(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: is no folder")
    places = {label: index for index, label in enumerate(labels)}
    classes = class_names(root)
    if strangers := [name for name in classes if name not in places]:
        raise DataError(
            f"{root}: {', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''} is no class of these weights, "
            f"which know {', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''}"
        )
    pictures = []
    for name in classes:
        for found in find_inputs([str(root / name)]):
            if found.error is not None:
                raise DataError(f"{found.name}: cannot be read: {found.error}")
            pictures.append(LabelledPicture(path=Path(found.name), label=places[name]))
    if not pictures:
        raise DataError(f"{root}: holds no pictures in folders named after classes; needed are CLASS/*.jpg")
    return LabelledFolder(root=root, pictures=tuple(pictures), sha256=_digest(root, pictures))


def _root(folder: Path) -> Path:
    return folder / "val" if (folder / "val").is_dir() else folder


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted, hidden ones left out."""
    names = (entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return tuple(sorted(names))


def _digest(root: Path, pictures: Sequence[LabelledPicture]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        try:
            content = sha256_of_file(picture.path)
        except OSError as error:
            raise DataError(f"{picture.path}: cannot be read: {error.strerror}") from error
        digest.update(f"{picture.path.relative_to(root).as_posix()}\n{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
