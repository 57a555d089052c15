"""MATLAB files of level 5 (MATLAB's -v6 and -v7), read without running anything and within bounded memory.

Source: MathWorks, MAT-File Format, R2024b, sections "Level 5 MAT-File Format" and "Level 5 MAT-File Data Elements".
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import BinaryIO, TypeAlias

import numpy as np

from alexnet_deploy.core.process.say import counted

_HEAD_BYTES, _TAG_BYTES, _PIECE_BYTES = 128, 8, 1 << 20
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_COMPLEX = 1 << 11
_CLASSES = range(6, 16)
"""Of arrays of numbers, from double to uint64."""
_NUMBERS = MappingProxyType(
    {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
)
_TEXTS = MappingProxyType({1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"})

_MOST_DIMENSIONS = 8
_MOST_NESTED = 16
_MOST_ARRAYS = 100_000
_MOST_FIELDS = 1000


class MatError(ValueError):
    """Why a MATLAB file cannot be read; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Unread:
    """An array of a class that is not read: a function, an object, a sparse matrix."""

    array_class: int


Struct: TypeAlias = dict[str, "MatValue"]
MatValue: TypeAlias = np.ndarray | str | Unread | list["MatValue"] | list[Struct]
"""Numbers with MATLAB's shape; a text; the elements of a cell array; the elements of an array of structs.

Numbers are read-only views of the file's bytes, in the file's type: MATLAB stores a double that is a whole number in as
few bytes as it needs.
"""


def read_mat(file: BinaryIO, num_bytes: int, most_unpacked: int) -> dict[str, MatValue]:
    """Return the variables of an open MATLAB file of `num_bytes` bytes by name; arrays without a name are skipped.

    Compressed variables may unpack to `most_unpacked` bytes in all. Raises MatError, and OSError if reading fails.
    """
    if file.read(_HEAD_BYTES)[126:] != b"IM":
        raise MatError("it is not a little-endian MATLAB file of level 5")
    reading = _Reading(most_unpacked=most_unpacked)
    variables: dict[str, MatValue] = {}
    try:
        for matrix in _top_matrices(file, num_bytes - _HEAD_BYTES, reading):
            name, value = reading.array(matrix, depth=0)
            variables[name] = value
    except MatError:
        raise
    except (struct.error, zlib.error, LookupError, ValueError) as error:
        raise MatError(f"it is damaged: {error}") from error
    variables.pop("", None)
    return variables


def _top_matrices(file: BinaryIO, left: int, reading: "_Reading") -> Iterator[memoryview]:
    """Yield the content of each array at the top of the next `left` bytes, unpacked."""
    while left >= _TAG_BYTES:
        kind, size = struct.unpack("<II", file.read(_TAG_BYTES))
        left -= _TAG_BYTES
        if kind >> 16:
            # A short element cannot be an array.
            continue
        if size > left:
            raise MatError(f"{counted(size - left, 'byte')} missing at its end")
        # Only compressed elements are not padded to eight bytes.
        padded = size if kind == _COMPRESSED else min(left, -(-size // 8) * 8)
        if kind == _COMPRESSED:
            inner = _elements(reading.unpacked(file, size))
            yield from (content for inner_kind, content in inner if inner_kind == _MATRIX)
        else:
            content = memoryview(file.read(padded))[:size]
            if kind == _MATRIX:
                yield content
        left -= padded


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
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
            raise MatError(f"{counted(num_bytes - len(content), 'byte')} missing at its end")
        yield kind, content
        # Only compressed elements are not padded to eight bytes.
        position += 8 + (num_bytes if kind == _COMPRESSED else -(-num_bytes // 8) * 8)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """State of reading one file."""

    most_unpacked: int
    num_unpacked: int = 0
    """Bytes of all compressed variables."""
    num_arrays: int = 0

    def unpacked(self, file: BinaryIO, num_packed: int) -> memoryview:
        """Decompress a variable of `num_packed` bytes, but never to more bytes than are left."""
        stream, data = zlib.decompressobj(), bytearray()
        while num_packed and (piece := file.read(min(num_packed, _PIECE_BYTES))):
            num_packed -= len(piece)
            room = self.most_unpacked - self.num_unpacked
            unpacked = stream.decompress(piece, room + 1)
            if len(unpacked) > room:
                raise MatError(f"it unpacks to more than {self.most_unpacked:,} bytes")
            self.num_unpacked += len(unpacked)
            data += unpacked
        if not stream.eof:
            raise MatError("a compressed variable ends early")
        return memoryview(data).toreadonly()

    def array(self, matrix: memoryview, depth: int) -> tuple[str, MatValue]:
        """Return an array's name and value."""
        self.num_arrays += 1
        if self.num_arrays > _MOST_ARRAYS or depth > _MOST_NESTED:
            raise MatError(f"it has more than {_MOST_ARRAYS:,} arrays, or {_MOST_NESTED} within one another")
        if not len(matrix):
            return "", np.empty((0, 0))
        parts = _elements(matrix)
        head = list(islice(parts, 3))
        if len(head) < 3 or len(head[0][1]) < 8:
            return "", Unread(head[0][1][0] if head and len(head[0][1]) else 0)
        (flags,) = struct.unpack_from("<I", head[0][1])
        shape, name = _shape(head[1][1]), bytes(head[2][1]).decode("latin-1")
        return name, self._value(flags, shape, parts, depth)

    def _value(
        self, flags: int, shape: tuple[int, ...], parts: Iterator[tuple[int, memoryview]], depth: int
    ) -> MatValue:
        array_class = flags & 0xFF
        if flags & _COMPLEX:
            raise MatError("it holds complex numbers")
        if array_class == _CELL:
            return [self.array(content, depth + 1)[1] for _, content in parts]
        if array_class == _STRUCT:
            return self._structs(parts, depth)
        if array_class == _CHAR:
            kind, content = next(parts, (16, memoryview(b"")))
            return bytes(content).decode(_TEXTS[kind])
        if array_class in _CLASSES:
            return _numbers(shape, next(parts, None))
        return Unread(array_class)

    def _structs(self, parts: Iterator[tuple[int, memoryview]], depth: int) -> list[Struct]:
        (_, width_bytes), (_, text) = islice(parts, 2)
        (width,) = struct.unpack("<i", width_bytes)
        if width <= 0 or len(text) % width or len(text) > _MOST_FIELDS * width:
            raise MatError(f"field names of {width} bytes do not fit {len(text):,} bytes")
        names = [bytes(text[at : at + width]).rstrip(b"\0").decode() for at in range(0, len(text), width)]
        values = [self.array(content, depth + 1)[1] for _, content in parts]
        if not names:
            return []
        return [
            dict(zip(names, values[at : at + len(names)], strict=False)) for at in range(0, len(values), len(names))
        ]


def _shape(content: memoryview) -> tuple[int, ...]:
    if len(content) % 4 or len(content) > 4 * _MOST_DIMENSIONS:
        raise MatError("an array has more dimensions than can be read")
    shape = tuple(struct.unpack(f"<{len(content) // 4}i", content))
    if min(shape, default=0) < 0:
        raise MatError(f"an array has the shape {shape}")
    return shape


def _numbers(shape: Sequence[int], part: tuple[int, memoryview] | None) -> np.ndarray:
    kind, content = part or (9, memoryview(b""))
    stored = np.dtype(_NUMBERS[kind])
    if len(content) != math.prod(shape) * stored.itemsize:
        raise MatError(f"an array of shape {tuple(shape)} has {len(content):,} bytes")
    # A view of the file; in MATLAB's order the first dimension is contiguous.
    return np.frombuffer(content, stored).reshape(shape, order="F")
