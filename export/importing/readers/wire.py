"""Find the fields of a protobuf message, by position in a file's bytes, without parsing it.

Source: protobuf.dev, "Encoding".
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5


class WireError(Exception):
    """The bytes are not a protobuf message; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a message."""

    number: int
    wire: int
    """VARINT, EIGHT, BYTES or FOUR."""
    begin: int
    """Position of its key."""
    value: int
    """Position of its value, after the length if it has one."""
    end: int


def fields(data: memoryview, place: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message at `place`; raises WireError."""
    while place < end:
        begin = place
        key, place = _varint(data, place, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            _, after = _varint(data, place, end)
        elif wire == BYTES:
            length, place = _varint(data, place, end)
            after = place + length
        elif wire in (FOUR, EIGHT):
            after = place + (4 if wire == FOUR else 8)
        else:
            raise WireError(f"a field has the unknown wire type {wire}")
        if after > end or number == 0:
            raise WireError("a field is longer than the message that holds it")
        yield Field(number=number, wire=wire, begin=begin, value=place, end=after)
        place = after


def _varint(data: memoryview, place: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise WireError("a number does not end")
