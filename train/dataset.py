"""Folders of pictures as a data set: one folder a class, in `train/` and `val/`, or split by the hash of the name."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from alexnet_deploy.core.ahead import decode_threads, map_ahead
from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.core.files import sha256
from alexnet_deploy.core.image import decode_image, read_file, read_image
from alexnet_deploy.core.inputs import Input, find_inputs
from alexnet_deploy.core.labelled import LabelledPicture, class_names
from alexnet_deploy.core.labels import is_label
from alexnet_deploy.core.preprocessing import ResizePolicy
from alexnet_deploy.train.batches import TrainingSet
from alexnet_deploy.train.stopping import leave_stopping_to_parent

_VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFolder:
    """A labelled folder, split for training."""

    root: Path
    """What was named."""
    labels: tuple[str, ...]
    """The class folders' names, sorted."""
    train: tuple[LabelledPicture, ...]
    """What is learnt from."""
    validation: tuple[LabelledPicture, ...]
    """What is only measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What one pass over all pictures found."""

    folder: PictureFolder
    """The pictures that can be decoded."""
    excluded: dict[str, str]
    """Those that cannot: path below the root, to error code."""
    sha256: str
    """Digest of the names and bytes of those that can."""
    mean: np.ndarray
    """Of the training pictures' RGB, float64 (3,), on 0..255."""
    covariance: np.ndarray
    """Of the training pictures' RGB, float64 (3, 3), on 0..255."""


def find_pictures(root: Path) -> PictureFolder:
    """Return the labelled pictures below `root`, unopened.

    `root/train/CLASS/...` and `root/val/CLASS/...`; or `root/CLASS/...`, of which a tenth, chosen by the hash of its
    name (so that adding pictures moves no other), is kept for validation. Raises DataError where that does not give
    two classes or more, the same on both sides, with pictures in each, or where a class's name cannot be a label.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'there is no such folder'}")
    if (root / "train").is_dir():
        labels = class_names(root / "train")
        if not (root / "val").is_dir():
            raise DataError(f"{root}: has train/ but no val/; without both, put the class folders right below it")
        if (others := class_names(root / "val")) != labels:
            raise DataError(f"{root}: train/ and val/ differ in {', '.join(sorted(set(labels) ^ set(others)))}")
        train, validation = (_examples(root / side, labels) for side in ("train", "val"))
    else:
        labels = class_names(root)
        everything = _examples(root, labels)
        validation = tuple(example for example in everything if _is_kept(example.path.relative_to(root)))
        train = tuple(example for example in everything if not _is_kept(example.path.relative_to(root)))
    folder = PictureFolder(root=root, labels=labels, train=train, validation=validation)
    _check(folder)
    return folder


def survey(folder: PictureFolder, resize: ResizePolicy) -> Survey:
    """Read and decode every picture once: what cannot be decoded is set apart, the rest is counted and digested.

    The mean and covariance are accumulated picture by picture, in float64. Raises DataError where too few are left.
    """
    digest = hashlib.sha256()
    excluded: dict[str, str] = {}
    good: dict[str, list[LabelledPicture]] = {"train": [], "validation": []}
    num_pixels, total, products = 0, np.zeros(3), np.zeros((3, 3))
    for side, examples in (("train", folder.train), ("validation", folder.validation)):
        looks = map_ahead(lambda example: _look_at(example, resize), examples, threads=decode_threads(), ahead=64)
        for example, look in looks:
            name = Input(name=str(example.path.relative_to(folder.root)))
            if isinstance(look, ImageError):
                excluded[name.text] = look.code.value
                continue
            digest.update(f"{os.fsencode(name.name)!r} {look.sha256}\n".encode())
            good[side].append(example)
            if side == "train":
                num_pixels += look.num_pixels
                total += look.total
                products += look.products
    kept = PictureFolder(
        root=folder.root, labels=folder.labels, train=tuple(good["train"]), validation=tuple(good["validation"])
    )
    _check(kept)
    mean = total / num_pixels
    return Survey(
        folder=kept,
        excluded=excluded,
        sha256=digest.hexdigest(),
        mean=mean,
        covariance=products / num_pixels - np.outer(mean, mean),
    )


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Decoded pictures, uint8 (256, 256, 3), with their labels, read from their files each time."""

    def __init__(self, examples: tuple[LabelledPicture, ...], resize: ResizePolicy, num_workers: int = 0) -> None:
        """Take pictures that `num_workers` processes decode ahead; 0 decodes in this one."""
        self._examples = examples
        self._resize: ResizePolicy = resize
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return one picture; raises DataError where it can no longer be read."""
        example = self._examples[index]
        try:
            return torch.from_numpy(read_image(example.path, self._resize)), example.label
        except ImageError as error:
            raise DataError(f"{example.path}: could be read before, and now cannot: {error}") from error

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield pictures, uint8 (N, 256, 256, 3), and labels, int64 (N,), for each tensor of numbers."""
        yield from DataLoader(
            self,
            batch_sampler=(batch.tolist() for batch in numbers),
            num_workers=self._num_workers,
            worker_init_fn=leave_stopping_to_parent,
        )


def training_set(found: Survey, resize: ResizePolicy, *, num_workers: int = 0) -> TrainingSet:
    """Return surveyed pictures as the training loop takes them, decoded as they are asked for."""
    return TrainingSet(
        root=found.folder.root,
        labels=found.folder.labels,
        train=Pictures(found.folder.train, resize, num_workers),
        validation=Pictures(found.folder.validation, resize, num_workers),
        excluded=found.excluded,
        sha256=found.sha256,
        mean=found.mean,
        covariance=found.covariance,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    sha256: str
    num_pixels: int
    total: np.ndarray
    products: np.ndarray


def _look_at(example: LabelledPicture, resize: ResizePolicy) -> tuple[LabelledPicture, _Look | ImageError]:
    try:
        data = read_file(example.path)
        pixels = decode_image(data, resize).reshape(-1, 3).astype(np.float64)
    except ImageError as error:
        return example, error
    look = _Look(sha256=sha256(data), num_pixels=len(pixels), total=pixels.sum(axis=0), products=pixels.T @ pixels)
    return example, look


def _examples(root: Path, labels: tuple[str, ...]) -> tuple[LabelledPicture, ...]:
    return tuple(
        LabelledPicture(path=found.path, label=label)
        for label, name in enumerate(labels)
        for found in find_inputs([root / name])
    )


def _is_kept(name: Path) -> bool:
    number = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
    return number < _VALIDATION_SHARE * 2**64


def _check(folder: PictureFolder) -> None:
    if len(folder.labels) < 2:
        raise DataError(f"{folder.root}: {len(folder.labels)} class folders, where a classifier needs two or more")
    for name in folder.labels:
        # Refused before the first epoch, not by the first weights that are saved.
        if not is_label(name):
            raise DataError(f"{folder.root}: the class folder {name!r} cannot be a label, which is one line of UTF-8")
    for side, examples in (("training", folder.train), ("validation", folder.validation)):
        seen = {example.label for example in examples}
        for label, name in enumerate(folder.labels):
            if label not in seen:
                raise DataError(f"{folder.root}: the class {name!r} has no {side} picture that can be read")
