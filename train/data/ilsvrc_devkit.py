"""The class of each validation image of ILSVRC-2012, out of its devkit.

The devkit's ground truth is a number a line, and what the numbers stand for is in a MATLAB file only. Of that format
(level 5) this reads what that file is made of: one array of records, whose fields are numbers and texts.
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
# Types of stored values; texts are in the unsigned integers, UTF-8 (16) or UTF-16 (17).
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}


# What is published takes 2.5 MB packed and a few unpacked; what grows beyond these was made to.
_MAX_DEVKIT_BYTES = 1 << 27
_MAX_META_BYTES = 1 << 25
_MAX_FIELDS = 1000
_MAX_DIGITS = 9


def validation_wnids(devkit: Path) -> tuple[str, ...]:
    """Return the WNID of each validation image, in the order of their numbers.

    Raises DataError where the devkit cannot be read, or is not what its readme says.
    """
    contents = unpack(devkit, (_GROUND_TRUTH, _META), _MAX_DEVKIT_BYTES)
    if missing := [name for name in (_GROUND_TRUTH, _META) if name not in contents]:
        raise DataError(f"{devkit}: holds no {missing[0]}")
    try:
        wnids = synsets(contents[_META])
    except (ValueError, LookupError, ArithmeticError, struct.error, zlib.error) as error:
        raise DataError(
            f"{devkit}: {_META} is not as expected ({error}); a file of WNIDs, one a line, can stand in for the devkit"
        ) from error
    numbers = contents[_GROUND_TRUTH].split()
    for line, number in enumerate(numbers, start=1):
        if not number.isdigit() or len(number) > _MAX_DIGITS or int(number) not in wnids:
            raise DataError(
                f"{devkit}: line {line} of {_GROUND_TRUTH} is {number[:20]!r}, which is the number of no class"
            )
    return tuple(wnids[int(number)] for number in numbers)


def synsets(meta: bytes) -> dict[int, str]:
    """Return the WNID of each class number of a meta.mat; synsets above others, which are no classes, are left out.

    Raises ValueError, LookupError, ArithmeticError, struct.error or zlib.error for anything else than such a file.
    """
    for record in _records(meta):
        if {"ILSVRC2012_ID", "WNID", "num_children"} <= record.keys():
            break
    else:
        raise ValueError("it holds no array of records with ILSVRC2012_ID, WNID and num_children")
    columns = [record[name] for name in ("ILSVRC2012_ID", "WNID", "num_children")]
    rows = zip(*columns, strict=True)
    classes = sorted((int(number), str(wnid)) for number, wnid, num_children in rows if float(num_children) == 0)
    wnids = dict(classes)
    # A list that was misread would hardly number its classes from 1 on without a gap, each with a WNID of its own.
    if [number for number, _ in classes] != list(range(1, len(classes) + 1)) or len(set(wnids.values())) < len(classes):
        raise ValueError("its classes are not numbered from 1 on, each with a WNID of its own")
    return wnids


def _records(data: bytes) -> Iterator[dict[str, list[float | str]]]:
    """Yield each array of records in a MATLAB file, as the values of each of its fields."""
    if len(data) < 128 or data[126:128] != b"IM":
        raise ValueError("it is no MATLAB file of level 5 in little-endian order")
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
                    raise ValueError(f"its fields' names are {width} bytes of {len(parts[4]):,}")
                names = [parts[4][at : at + width].rstrip(b"\0").decode() for at in range(0, len(parts[4]), width)]
                values = [_value(part) for part in parts[5:]]
                yield {name: values[place :: len(names)] for place, name in enumerate(names)}


def _decompressed(content: bytes, max_bytes: int) -> bytes:
    """Return what a zlib stream holds; raises ValueError before it is more than `max_bytes`."""
    stream = zlib.decompressobj()
    data = stream.decompress(content, max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it unpacks to more than {_MAX_META_BYTES:,} bytes")
    if not stream.eof:
        raise zlib.error("a compressed element ends early")
    return data


def _value(matrix: bytes) -> float | str:
    """Return the text or the first number of an array; NaN where it is neither."""
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
    """Yield the type and the content of each element that lies in these bytes."""
    position = 0
    while position + 8 <= len(data):
        kind, num_bytes = struct.unpack_from("<II", data, position)
        if kind >> 16:
            # A short one: size and type share four bytes, and the content is in the other four.
            yield kind & 0xFFFF, data[position + 4 : position + 4 + (kind >> 16)]
            position += 8
            continue
        content = data[position + 8 : position + 8 + num_bytes]
        if len(content) < num_bytes:
            raise ValueError(f"it ends {counted(num_bytes - len(content), 'byte')} too early")
        yield kind, content
        # Compressed elements alone are not padded to eight bytes.
        position += 8 + (num_bytes if kind == _COMPRESSED else -(-num_bytes // 8) * 8)
