"""Class names, one per line, in the order of the probabilities."""

import codecs
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.core.process.say import counted

_IMAGENET = Path(__file__).parent / "imagenet_labels.txt"
_MOST_BYTES = 16 * MIB
_WNIDS = Path(__file__).parent / "imagenet_wnids.txt"


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 class names of ILSVRC-2012 in the order of their WordNet ids, which published networks use.

    The names are distinct: class 134 is "crane bird" and 517 "crane", 638 is "maillot" and 639 "maillot tank suit".

    Source: torchvision 0.29.1, models/_meta.py.
    """
    return decode_labels(_IMAGENET.read_bytes())


def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 classes of ILSVRC-2012, sorted: one for each of imagenet_labels().

    Source: synset_words.txt of the challenge, as Caffe and MXNet distribute it.
    """
    return tuple(_WNIDS.read_text(encoding="ascii").split())


def is_label(text: str) -> bool:
    """Return whether a text can be a class name: one line, not blank, encodable as UTF-8."""
    is_unicode = not any("\ud800" <= character <= "\udfff" for character in text)
    return bool(text.strip()) and text.splitlines() == [text] and is_unicode


def check_labels(labels: Sequence[str], num_classes: int) -> None:
    """Raise WeightsError unless there is one distinct, one-line name for each class."""
    if len(labels) != num_classes:
        raise WeightsError(f"{counted(len(labels), 'label')} for {counted(num_classes, 'class', 'classes')}")
    if len(set(labels)) != len(labels):
        (duplicate, _), *_ = Counter(labels).most_common(1)
        raise WeightsError(f"duplicate label {duplicate!r}")
    for label in labels:
        if not is_label(label):
            raise WeightsError(f"the label {label!r} is not one line of text")


def encode_labels(labels: Sequence[str]) -> bytes:
    """Return the content of labels.txt, UTF-8, one name per line."""
    return "".join(f"{label}\n" for label in labels).encode()


def decode_list_of_labels(data: bytes) -> tuple[str, ...]:
    """Return the names in a list that a person or another program wrote; raises WeightsError if it is not UTF-8.

    A byte order mark, spaces around names and blank lines at the end are not part of the names.
    """
    names = [name.strip() for name in decode_labels(data.removeprefix(codecs.BOM_UTF8))]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the names in a file that a person wrote, as decode_list_of_labels; UsageError where it cannot be read."""
    try:
        return decode_list_of_labels(read_file(path, _MOST_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except WeightsError as error:
        raise UsageError(f"{path}: {error}") from error


def decode_labels(data: bytes) -> tuple[str, ...]:
    """Return the names in the content of a labels.txt; raises WeightsError if it is not UTF-8."""
    try:
        return tuple(data.decode().splitlines())
    except UnicodeDecodeError as error:
        raise WeightsError(f"the labels are not UTF-8: {error}") from error
