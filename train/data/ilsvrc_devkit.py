"""The labels of the ILSVRC-2012 validation images, read from its devkit.

The devkit's ground truth has one class number per line; only a MATLAB file says what the numbers mean. This module
reads the part of that format (level 5) that the file uses: one array of records, whose fields are numbers and texts.
Source: MathWorks, MAT-File Format, R2024b, sections "Level 5 MAT-File Format" and "Level 5 MAT-File Data Elements".
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.train.data.tar import unpack

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"

_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR, _FIRST_NUMERIC, _LAST_NUMERIC = 2, 4, 6, 15
# Types of stored values; texts are stored as unsigned integers, UTF-8 (16) or UTF-16 (17).
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}


# Limits against decompression bombs: the published devkit has 2.5 MB, a few MB unpacked.
_MAX_DEVKIT_BYTES = 1 << 27
_MAX_META_BYTES = 1 << 25
_MAX_FIELDS = 1000
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
    except (ValueError, LookupError, ArithmeticError, struct.error, zlib.error) as error:
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

    Raises ValueError, LookupError, ArithmeticError, struct.error or zlib.error for any other file.
    """
    for record in _records(meta):
        if {"ILSVRC2012_ID", "WNID", "num_children"} <= record.keys():
            break
    else:
        raise ValueError("no array of records has ILSVRC2012_ID, WNID and num_children")
    columns = [record[name] for name in ("ILSVRC2012_ID", "WNID", "num_children")]
    rows = zip(*columns, strict=True)
    classes = sorted((int(number), str(wnid)) for number, wnid, num_children in rows if float(num_children) == 0)
    wnids = dict(classes)
    # Detects a misread list: it would hardly have consecutive numbers from 1 and different WNIDs.
    if [number for number, _ in classes] != list(range(1, len(classes) + 1)) or len(set(wnids.values())) < len(classes):
        raise ValueError("its class numbers are not consecutive from 1, or a WNID is repeated")
    return wnids


def _records(data: bytes) -> Iterator[dict[str, list[float | str]]]:
    """Yield each array of records in a MATLAB file as lists of values by field name."""
    if len(data) < 128 or data[126:128] != b"IM":
        raise ValueError("it is not a little-endian MATLAB file of level 5")
    left = _MAX_META_BYTES
    for kind, content in _elements(data[128:]):
        if kind == _COMPRESSED:
            content = _decompressed(content, left)
            left -= len(content)
        elements = _elements(content) if kind == _COMPRESSED else iter([(kind, content)])
        for inner, matrix in elements:
            parts = [part for _, part in _elements(matrix)] if inner == _MATRIX else [b""]
            if parts[0][:1] == bytes([_STRUCT]):
                (width,) = struct.unpack("<i", parts[3])
                if not 0 < width <= len(parts[4]) <= _MAX_FIELDS * width:
                    raise ValueError(f"field names of {width} bytes do not fit {len(parts[4]):,} bytes")
                names = [parts[4][at : at + width].rstrip(b"\0").decode() for at in range(0, len(parts[4]), width)]
                values = [_value(part) for part in parts[5:]]
                yield {name: values[place :: len(names)] for place, name in enumerate(names)}


def _decompressed(content: bytes, max_bytes: int) -> bytes:
    """Decompress a zlib stream; raises ValueError if the result has more than `max_bytes`."""
    stream = zlib.decompressobj()
    data = stream.decompress(content, max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it unpacks to more than {_MAX_META_BYTES:,} bytes")
    if not stream.eof:
        raise zlib.error("a compressed element ends early")
    return data


def _value(matrix: bytes) -> float | str:
    """Return the text or the first number of an array; NaN for any other array."""
    elements = list(islice(_elements(matrix), 4))
    if len(elements) < 4:
        return float("nan")
    array_class, (kind, content) = elements[0][1][0], elements[3]
    if array_class == _CHAR:
        return content.decode(_TEXTS[kind])
    if _FIRST_NUMERIC <= array_class <= _LAST_NUMERIC and content:
        return float(np.frombuffer(content, f"<{_NUMBERS[kind]}", count=1)[0])
    return float("nan")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and content of each element in these bytes."""
    position = 0
    while position + 8 <= len(data):
        kind, num_bytes = struct.unpack_from("<II", data, position)
        if kind >> 16:
            # A short element: size and type share four bytes, and the content is in the other four.
            yield kind & 0xFFFF, data[position + 4 : position + 4 + (kind >> 16)]
            position += 8
            continue
        content = data[position + 8 : position + 8 + num_bytes]
        if len(content) < num_bytes:
            raise ValueError(f"{counted(num_bytes - len(content), 'byte')} missing at its end")
        yield kind, content
        # Only compressed elements are not padded to eight bytes.
        position += 8 + (num_bytes if kind == _COMPRESSED else -(-num_bytes // 8) * 8)
