"""ILSVRC-2012 as it is downloaded: two archives of images, and what says which class each validation image is of.

    DATA/ILSVRC2012_img_train.tar               of 1000 archives named WNID.tar
    DATA/ILSVRC2012_img_val.tar                 of ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG
    DATA/ILSVRC2012_devkit_t12.tar.gz           numbers a class for each of these, in an order of its own; or instead
    DATA/imagenet_2012_validation_synset_labels.txt    the WNID of each, one a line

Labels are WNIDs, sorted: the devkit's own numbers are in another order, and Caffe's lists count from 0 in a third.
Source: the devkit's readme.txt.
"""

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.inputs.labelled import differing_classes
from alexnet_deploy.train.data.ilsvrc_devkit import validation_wnids
from alexnet_deploy.train.data.source import LabelledSource
from alexnet_deploy.train.data.tar import Member, TarImage, members_of

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MAPPING = "imagenet_2012_validation_synset_labels.txt"

# As published 550 kB.
_MAX_MAPPING_BYTES = 1 << 24

_WNID = re.compile(r"n\d{8}")
_CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def is_ilsvrc(root: Path) -> bool:
    """Return whether a folder holds one of the two archives of images."""
    return (root / TRAIN).exists() or (root / VALIDATION).exists()


def find_ilsvrc(root: Path) -> LabelledSource:
    """Return the labelled images in the archives in `root`, unread but for their headers.

    They have the names and the order of a folder train/WNID/..., val/WNID/... made by unpacking them. Raises DataError
    where an archive is missing or damaged, holds something else, or the classes of the two sides are not the same.
    """
    for name in (TRAIN, VALIDATION):
        if not (root / name).is_file():
            raise DataError(f"{root}: has no {name}; both archives of images are needed")
    archives = _class_archives(root / TRAIN)
    labels = tuple(sorted(archives))
    wnids = _wnids(root)
    if others := differing_classes("the training archive", labels, "the list of validation labels", wnids):
        raise DataError(f"{root}: {others}")
    return LabelledSource(
        root=root,
        labels=labels,
        train=tuple(
            image
            for label, wnid in enumerate(labels)
            for image in _sorted(_class_images(root / TRAIN, archives[wnid], label, wnid))
        ),
        validation=tuple(_validation_images(root / VALIDATION, wnids, labels)),
    )


def _class_archives(path: Path) -> dict[str, Member]:
    archives: dict[str, Member] = {}
    for member in members_of(path):
        match = _CLASS_ARCHIVE.fullmatch(PurePosixPath(member.name).name)
        if match is None:
            raise DataError(f"{path}: holds {member.name}, where only archives called WNID.tar are expected")
        if match[1] in archives:
            raise DataError(f"{path}: holds {match[1]}.tar twice")
        archives[match[1]] = member
    return archives


def _class_images(path: Path, archive: Member, label: int, wnid: str) -> list[TarImage]:
    return [
        TarImage(
            archive=path,
            name=f"train/{wnid}/{PurePosixPath(member.name).name}",
            label=label,
            offset=member.offset,
            num_bytes=member.num_bytes,
        )
        for member in members_of(path, archive)
    ]


def _validation_images(path: Path, wnids: tuple[str, ...], labels: tuple[str, ...]) -> list[TarImage]:
    places = {wnid: label for label, wnid in enumerate(labels)}
    images, numbers = [], []
    for member in members_of(path):
        name = PurePosixPath(member.name).name
        match = _VALIDATION_NAME.fullmatch(name)
        if match is None or not 1 <= int(match[1]) <= len(wnids):
            raise DataError(f"{path}: holds {member.name}, which is none of the {len(wnids):,} images with a label")
        numbers.append(int(match[1]))
        wnid = wnids[numbers[-1] - 1]
        images.append(
            TarImage(
                archive=path,
                name=f"val/{wnid}/{name}",
                label=places[wnid],
                offset=member.offset,
                num_bytes=member.num_bytes,
            )
        )
    if missing := sorted(set(range(1, len(wnids) + 1)) - set(numbers)):
        raise DataError(
            f"{path}: has no image {missing[0]}, one of {len(missing):,} that have a label and are not there"
        )
    return _sorted(images)


def _sorted(images: list[TarImage]) -> list[TarImage]:
    """Return them in the order in which a folder of them is read, which is that of the archive's own."""
    counts = Counter(image.name for image in images)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{images[0].archive}: holds {twice[0]} twice")
    return sorted(images, key=lambda image: (image.label, image.name.encode("utf-8", "surrogateescape")))


def _wnids(root: Path) -> tuple[str, ...]:
    """Return the class of each validation image, in the order of their numbers."""
    if (root / MAPPING).exists():
        try:
            wnids = tuple(read_file(root / MAPPING, _MAX_MAPPING_BYTES).decode().split())
        except OSError as error:
            raise DataError(f"{root / MAPPING}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{root / MAPPING}: cannot be read: {error}") from error
        if wrong := [wnid for wnid in wnids if not _WNID.fullmatch(wnid)]:
            raise DataError(f"{root / MAPPING}: holds {wrong[0]!r}, where each line is a WNID such as n01440764")
        return wnids
    if not (root / DEVKIT).exists():
        raise DataError(f"{root}: has neither {DEVKIT} nor {MAPPING}, which say what the validation images show")
    return validation_wnids(root / DEVKIT)
