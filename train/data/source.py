"""The common interface of every source of labelled images.

A source is a folder of files (folder.py), the archives of ILSVRC-2012 as downloaded (ilsvrc.py) or CIFAR-10's binary
batches (cifar10.py). A survey's digest depends on names and bytes only, so archives and the folder of their unpacked
files have the same digest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.images.batches import StoredImage
from alexnet_deploy.core.model.labels import is_label
from alexnet_deploy.core.process.say import counted


class Example(StoredImage, Protocol):
    """One labelled image, not yet read."""

    @property
    def name(self) -> str:
        """Its unique name relative to the source's root, as in the survey's digest."""

    @property
    def label(self) -> int:
        """Its class, an index into the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSource:
    """Labelled images, split into training and validation."""

    root: Path
    """The path that the user named."""
    class_names: tuple[str, ...]
    """Class names, sorted."""
    train: Sequence[Example]
    """Training images."""
    validation: Sequence[Example]
    """Validation images."""
    validation_folder: str | None = None
    """Name of the validation folder, if it is beside train/."""


def check_source(source: LabelledSource) -> None:
    """Raise DataError unless there are two classes or more, with valid names and with images on both sides."""
    if len(source.class_names) < 2:
        raise DataError(
            f"{source.root}: {counted(len(source.class_names), 'class folder')}, but a classifier needs two or more; "
            "put the images of each class into their own folder, as CLASS/ or as train/CLASS/ and val/CLASS/"
        )
    for name in source.class_names:
        # Refused before training, not when the first weights are saved.
        if not is_label(name):
            raise DataError(
                f"{source.root}: the class folder {name!r} cannot be a label (one line of UTF-8); rename it"
            )
    for side, examples in (("training", source.train), ("validation", source.validation)):
        seen = {example.label for example in examples}
        for label, name in enumerate(source.class_names):
            if label not in seen:
                raise DataError(
                    f"{source.root}: the class {name!r} has no readable {side} image; each class needs at least two "
                    "images, one for training and one for validation"
                )
