"""Ground truth: the images of a labelled data set, and the class of each among a bundle's labels.

Classes are matched by name - exactly, then without regard to case and separators, then by WordNet id - and never by
position.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.inputs.labelled import class_names, labelled_root
from alexnet_deploy.core.inputs.paths import Input, find_inputs
from alexnet_deploy.core.model.labels import imagenet_labels, imagenet_wnids
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.train.data.cifar10 import LABELS as CIFAR10_LABELS
from alexnet_deploy.train.data.cifar10 import find_cifar10_test, is_cifar10
from alexnet_deploy.train.data.ilsvrc import find_ilsvrc_validation, is_ilsvrc_validation

_SEPARATORS = re.compile(r"[\s_-]+")
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledInputs:
    """N labelled images, as inputs of a prediction."""

    place: Path
    """The path that the user named."""
    class_names: tuple[str, ...]
    """Names of the classes in the data set."""
    inputs: tuple[Input, ...]
    """The images; one that cannot be read is an input too."""
    classes: np.ndarray
    """int32 (N,): the class of each image, an index into class_names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMatch:
    """The classes of a data set among a bundle's labels."""

    indices: tuple[int, ...]
    """For each class of the data set, the index of its label."""
    remark: str
    """What was matched other than by the same name, in words; empty if nothing was."""


def find_labelled_inputs(data: Path, labels: Sequence[str]) -> LabelledInputs:
    """Return the labelled images in `data`, not decoded.

    `data` is a folder with one folder for each class, or with val/ that has them; ILSVRC-2012's validation archive or
    its folder; or CIFAR-10's binary archive or its batches, whose test batch is used. `labels` only tell a class called
    `test` from a validation folder.

    Raises DataError if there is no image, a class is empty, or an archive is damaged.
    """
    if is_ilsvrc_validation(data):
        names, images = find_ilsvrc_validation(data)
        found = [(Input(name=image.name, stored=image), image.label) for image in images]
    elif is_cifar10(data):
        names = CIFAR10_LABELS
        found = [(Input(name=record.name, stored=record), record.label) for record in find_cifar10_test(data)]
    else:
        names, found = _in_folders(data, labels)
    inputs, classes = zip(*found, strict=True)
    return LabelledInputs(place=data, class_names=names, inputs=inputs, classes=np.array(classes, dtype=np.int32))


def _in_folders(data: Path, labels: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[Input, int]]]:
    root = labelled_root(data, labels)
    if not root.is_dir():
        raise DataError(f"{data}: not a folder, and not an archive of ILSVRC-2012 or CIFAR-10")
    names = class_names(root)
    if not names:
        raise DataError(f"{root}: no class folders found; put the images into CLASS/*.jpg")
    found = []
    for label, name in enumerate(names):
        inputs = list(find_inputs([root / name]))
        if not inputs:
            raise DataError(f"{root / name}: no images found; remove the folder, or put images into it")
        found += [(item, label) for item in inputs]
    return names, found


def match_classes(names: Sequence[str], labels: Sequence[str], place: str) -> ClassMatch:
    """Return the label of each class name; `place` names the data set in errors.

    Raises DataError for a class that has no label, and if two classes have the same one.
    """
    indices: list[int] = []
    unknown: list[str] = []
    matched: list[str] = []
    exact = {label: index for index, label in enumerate(labels)}
    alike = _by_plain_name(labels)
    by_wnid = dict(zip(imagenet_wnids(), range(1000), strict=True)) if tuple(labels) == imagenet_labels() else {}
    for name in names:
        if (index := exact.get(name)) is None:
            candidates = alike.get(_plain(name), [])
            index = candidates[0] if len(candidates) == 1 else by_wnid.get(name)
            if index is None:
                unknown.append(name)
                continue
            matched.append(f"{name} = {labels[index]}")
        indices.append(index)
    if unknown:
        raise DataError(f"{place}: the bundle has no class {_listed(unknown)}; its classes are {_listed(labels)}")
    if twice := [labels[index] for index in sorted(set(indices)) if indices.count(index) > 1]:
        raise DataError(f"{place}: two classes match the label {twice[0]}; rename or merge their folders")
    remark = f"matched {counted(len(matched), 'class', 'classes')} by name: {_listed(matched)}" if matched else ""
    return ClassMatch(indices=tuple(indices), remark=remark)


def _by_plain_name(labels: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        found[_plain(label)].append(index)
    return found


def _plain(name: str) -> str:
    return _SEPARATORS.sub(" ", name.casefold()).strip()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
