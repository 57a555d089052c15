"""ILSVRC-2012 as downloaded: two image archives, and a file with the labels of the validation images.

    DATA/ILSVRC2012_img_train.tar               1000 archives named WNID.tar
    DATA/ILSVRC2012_img_val.tar                 ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG
    DATA/ILSVRC2012_devkit_t12.tar.gz           a class number for each of them, in the devkit's order; or instead
    DATA/imagenet_2012_validation_synset_labels.txt    the WNID of each, one per line

Labels are the sorted WNIDs. The devkit numbers its classes in a different order, and Caffe's lists in a third one.
Source: the devkit's readme.txt.
"""

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.inputs.labelled import differing_classes
from alexnet_deploy.core.tar_file import Member
from alexnet_deploy.train.data.ilsvrc_devkit import validation_wnids
from alexnet_deploy.train.data.source import LabelledSource
from alexnet_deploy.train.data.tar import TarImage, members_of

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MAPPING = "imagenet_2012_validation_synset_labels.txt"

# The published file has 550 kB.
_MAX_MAPPING_BYTES = 1 << 24

_WNID = re.compile(r"n\d{8}")
_CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def is_ilsvrc(root: Path) -> bool:
    """Return whether a folder contains one of the two image archives."""
    return (root / TRAIN).exists() or (root / VALIDATION).exists()


def find_ilsvrc(root: Path) -> LabelledSource:
    """Return the labelled images in the archives in `root`; only headers are read.

    Names and order are those of a folder train/WNID/..., val/WNID/... with the unpacked images. Raises DataError if an
    archive is missing or damaged or contains other files, or if the two sides have different classes.
    """
    for archive in (TRAIN, VALIDATION):
        if not (root / archive).is_file():
            raise DataError(f"{root}: has no {archive}; both image archives are needed")
    archives = _class_archives(root / TRAIN)
    names = tuple(sorted(archives))
    wnids = _wnids(root)
    if others := differing_classes("the training archive", names, "the list of validation labels", wnids):
        raise DataError(f"{root}: {others}")
    return LabelledSource(
        root=root,
        class_names=names,
        train=tuple(
            image
            for label, wnid in enumerate(names)
            for image in _sorted(_class_images(root / TRAIN, archives[wnid], label, wnid))
        ),
        validation=tuple(_validation_images(root / VALIDATION, wnids, names)),
    )


def is_ilsvrc_validation(root: Path) -> bool:
    """Return whether a path is the archive of validation images, or a folder that contains it."""
    return root.name == VALIDATION or (root / VALIDATION).exists()


def find_ilsvrc_validation(root: Path) -> tuple[tuple[str, ...], tuple[TarImage, ...]]:
    """Return the sorted WNIDs and the labelled images of the validation archive; the training archive is not needed.

    `root` is the archive, or its folder, which must also contain the validation labels. Raises DataError like
    find_ilsvrc.
    """
    folder = root.parent if root.name == VALIDATION else root
    wnids = _wnids(folder)
    names = tuple(sorted(set(wnids)))
    return names, tuple(_validation_images(folder / VALIDATION, wnids, names))


def _class_archives(path: Path) -> dict[str, Member]:
    archives: dict[str, Member] = {}
    for member in members_of(path):
        match = _CLASS_ARCHIVE.fullmatch(PurePosixPath(member.name).name)
        if match is None:
            raise DataError(f"{path}: contains {member.name}; only archives named WNID.tar are expected")
        if match[1] in archives:
            raise DataError(f"{path}: contains {match[1]}.tar twice")
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


def _validation_images(path: Path, wnids: tuple[str, ...], names: tuple[str, ...]) -> list[TarImage]:
    places = {wnid: label for label, wnid in enumerate(names)}
    images, numbers = [], []
    for member in members_of(path):
        name = PurePosixPath(member.name).name
        match = _VALIDATION_NAME.fullmatch(name)
        if match is None or not 1 <= int(match[1]) <= len(wnids):
            raise DataError(f"{path}: contains {member.name}, which is not one of the {len(wnids):,} labelled images")
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
            f"{path}: labelled images are missing: {len(missing):,} in all, the first is image {missing[0]}"
        )
    return _sorted(images)


def _sorted(images: list[TarImage]) -> list[TarImage]:
    """Return them in the order in which a folder of the unpacked images is read; refuse a repeated name."""
    counts = Counter(image.name for image in images)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{images[0].archive}: contains {twice[0]} twice")
    return sorted(images, key=lambda image: (image.label, image.name.encode("utf-8", "surrogateescape")))


def _wnids(root: Path) -> tuple[str, ...]:
    """Return the WNID of each validation image, in the order of the image numbers."""
    if (root / MAPPING).exists():
        try:
            wnids = tuple(read_file(root / MAPPING, _MAX_MAPPING_BYTES).decode().split())
        except OSError as error:
            raise DataError(f"{root / MAPPING}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{root / MAPPING}: cannot be read: {error}") from error
        if wrong := [wnid for wnid in wnids if not _WNID.fullmatch(wnid)]:
            raise DataError(f"{root / MAPPING}: contains {wrong[0]!r}; each line must be a WNID such as n01440764")
        return wnids
    if not (root / DEVKIT).exists():
        raise DataError(f"{root}: has neither {DEVKIT} nor {MAPPING}; one is needed for the validation labels")
    return validation_wnids(root / DEVKIT)
