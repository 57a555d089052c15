"""The labels of the ILSVRC-2012 validation images, read from its devkit.

The devkit's ground truth has one class number per line; only a MATLAB file says what the numbers mean: an array of
records, whose fields are numbers and texts.
"""

from io import BytesIO
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.mat_file import MatValue, read_mat
from alexnet_deploy.train.data.tar import unpack

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"

_COLUMNS = ("ILSVRC2012_ID", "WNID", "num_children")

# Limits against decompression bombs: the published devkit has 2.5 MB, a few MB unpacked.
_MAX_DEVKIT_BYTES = 1 << 27
_MAX_META_BYTES = 1 << 25
_MAX_DIGITS = 9


def validation_wnids(devkit: Path) -> tuple[str, ...]:
    """Return the WNID of each validation image, in the order of the image numbers.

    Raises DataError if the devkit cannot be read or does not match its readme.
    """
    contents = unpack(devkit, (_GROUND_TRUTH, _META), _MAX_DEVKIT_BYTES)
    if missing := [name for name in (_GROUND_TRUTH, _META) if name not in contents]:
        raise DataError(f"{devkit}: contains no {missing[0]}")
    try:
        wnids = synsets(contents[_META])
    except (ValueError, ArithmeticError) as error:
        raise DataError(
            f"{devkit}: {_META} cannot be read ({error}); use a file of WNIDs, one per line, instead of the devkit"
        ) from error
    numbers = contents[_GROUND_TRUTH].split()
    for line, number in enumerate(numbers, start=1):
        if not number.isdigit() or len(number) > _MAX_DIGITS or int(number) not in wnids:
            raise DataError(f"{devkit}: line {line} of {_GROUND_TRUTH} is {number[:20]!r}, which is not a class number")
    return tuple(wnids[int(number)] for number in numbers)


def synsets(meta: bytes) -> dict[int, str]:
    """Return the WNID of each class number in a meta.mat; synsets with children are not classes and are skipped.

    Raises ValueError or ArithmeticError for any other file.
    """
    for value in read_mat(BytesIO(meta), len(meta), _MAX_META_BYTES).values():
        records = [record for record in value if isinstance(record, dict)] if isinstance(value, list) else []
        if records and all(record.keys() >= set(_COLUMNS) for record in records):
            break
    else:
        raise ValueError("no array of records has ILSVRC2012_ID, WNID and num_children")
    rows = [tuple(_text_or_number(record[name]) for name in _COLUMNS) for record in records]
    classes = sorted((int(number), str(wnid)) for number, wnid, num_children in rows if float(num_children) == 0)
    wnids = dict(classes)
    # Detects a misread list: it would hardly have consecutive numbers from 1 and different WNIDs.
    if [number for number, _ in classes] != list(range(1, len(classes) + 1)) or len(set(wnids.values())) < len(classes):
        raise ValueError("its class numbers are not consecutive from 1, or a WNID is repeated")
    return wnids


def _text_or_number(value: MatValue) -> float | str:
    """Return the text or the first number of an array; NaN for any other array."""
    if isinstance(value, str):
        return value
    return float(value.flat[0]) if isinstance(value, np.ndarray) and value.size else float("nan")
