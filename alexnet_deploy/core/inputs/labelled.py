"""Folders of labelled images: find the validation folder and the images to evaluate trained weights on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.files import sha256_of_file
from alexnet_deploy.core.inputs.paths import find_files

VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
"""Names of the validation folder beside train/; `test` is used only if none of the others exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image with a label."""

    path: Path
    """The image file."""
    label: int
    """Index of the class in the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFolder:
    """Labelled images, sorted by class and name."""

    root: Path
    """The folder that holds one folder for each class."""
    images: tuple[LabelledImage, ...]
    """One or more."""
    sha256: str
    """Digest of their names below the root and their bytes."""


def is_labelled(folder: Path, labels: Sequence[str]) -> bool:
    """Return whether the folder, or its validation folder, has subfolders whose names are all in `labels`."""
    try:
        root = labelled_root(folder, labels)
    except DataError:
        return False
    return root.is_dir() and bool(names := class_names(root)) and set(names) <= set(labels)


def find_labelled(folder: Path, labels: Sequence[str]) -> LabelledFolder:
    """Return the images in the folder's validation folder (see validation_folder), or in the folder if it has none.

    A subfolder named like one of `labels` is a class, not the validation folder. Raises DataError if a subfolder is not
    in `labels`, there is no image, one cannot be read, or there are several validation folders.
    """
    root = labelled_root(folder, labels)
    if not root.is_dir():
        raise DataError(f"{folder}: not a folder")
    places = {label: index for index, label in enumerate(labels)}
    classes = class_names(root)
    if unknown := [name for name in classes if name not in places]:
        raise DataError(
            f"{root}: the weights have no class {', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}; "
            f"their classes are {', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''}"
        )
    images = []
    for name in classes:
        images += [LabelledImage(path=path, label=places[name]) for path in find_files(root / name)]
    if not images:
        raise DataError(f"{root}: no images found in class folders; put them into CLASS/*.jpg")
    return LabelledFolder(root=root, images=tuple(images), sha256=_digest(root, images))


def validation_folder(root: Path) -> Path | None:
    """Return root/val, root/valid or root/validation if one is a folder, else root/test; None if there is none.

    Raises DataError if there are several of the first three.
    """
    *names, last = VALIDATION_FOLDERS
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) > 1:
        raise DataError(f"{root}: has {' and '.join(f'{path.name}/' for path in found)}; keep one validation folder")
    return found[0] if found else root / last if (root / last).is_dir() else None


def differing_classes(here: str, labels: Sequence[str], there: str, others: Sequence[str]) -> str:
    """Return a sentence about the classes that only one of two places has; empty if both have the same."""
    words = []
    for place, own, other, missing in ((here, labels, there, others), (there, others, here, labels)):
        if extra := sorted(set(own) - set(missing)):
            noun = "class" if len(extra) == 1 else "classes"
            names = f"{', '.join(extra[:3])}{', ...' if len(extra) > 3 else ''}"
            words.append(f"{place} has the {noun} {names}, {other} does not")
    return "; ".join(words)


def labelled_root(folder: Path, labels: Sequence[str]) -> Path:
    """Return the folder's validation folder (see validation_folder), or the folder itself if it has none.

    A subfolder named like one of `labels` is a class, not the validation folder. Raises DataError if there are several
    validation folders.
    """
    side = validation_folder(folder)
    is_class = side is not None and side.name in labels and not (folder / "train").is_dir()
    return folder if side is None or is_class else side


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names of the subfolders, sorted, without hidden ones."""
    names = (entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return tuple(sorted(names))


def _digest(root: Path, images: Sequence[LabelledImage]) -> str:
    digest = hashlib.sha256()
    for image in images:
        try:
            content = sha256_of_file(image.path)
        except OSError as error:
            raise DataError(f"{image.path}: cannot be read: {error.strerror}") from error
        digest.update(f"{image.path.relative_to(root).as_posix()}\n{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
