"""Where labelled images come from: what every source of them offers, whatever it keeps them in.

A source is a folder of files (folders.py), the archives of ILSVRC-2012 as they are downloaded (ilsvrc.py) or CIFAR-10's
binary batches (cifar.py). The digest of a survey is of names and bytes: the archives and the folder made by unpacking
them have the same.
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
    """One image whose class is known, not yet read."""

    @property
    def name(self) -> str:
        """Its name below the source's root, as the survey's digest has it; unlike any other's."""

    @property
    def label(self) -> int:
        """Its class, an index into the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSource:
    """Labelled images, split for training."""

    root: Path
    """What was named."""
    labels: tuple[str, ...]
    """The names of the classes, sorted."""
    train: Sequence[Example]
    """What is learnt from."""
    validation: Sequence[Example]
    """What is only measured on."""
    validation_folder: str | None = None
    """The name of the folder that these are in, where it lies beside train/."""


def check_source(source: LabelledSource) -> None:
    """Raise DataError unless there are two classes or more, their names can be labels, and each has both sides."""
    if len(source.labels) < 2:
        raise DataError(
            f"{source.root}: {counted(len(source.labels), 'class folder')}, where a classifier needs two or more; put "
            "the images of each class into a folder of its own, as CLASS/ or as train/CLASS/ and val/CLASS/"
        )
    for name in source.labels:
        # Refused before the first epoch, not by the first weights that are saved.
        if not is_label(name):
            raise DataError(f"{source.root}: the class folder {name!r} cannot be a label, which is one line of UTF-8")
    for side, examples in (("training", source.train), ("validation", source.validation)):
        seen = {example.label for example in examples}
        for label, name in enumerate(source.labels):
            if label not in seen:
                raise DataError(
                    f"{source.root}: the class {name!r} has no {side} image that can be read; each class needs two "
                    "images or more, one to train on and one to validate on"
                )
