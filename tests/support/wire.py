"""Protobuf messages as lists of fields, rewritten so that two parsers may disagree."""

import random
import struct
from dataclasses import dataclass
from typing import Any

import onnx

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5


@dataclass(slots=True)
class Field:
    """One field on the wire."""

    number: int
    wire: int
    value: int | bytes
    surplus: int = 0
    """Extra bytes in the encoding of its number or its length."""


def varint(value: int, surplus: int = 0) -> bytes:
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127)
    digits += [0] * surplus
    return bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def fields_of(data: bytes) -> list[Field]:
    place, fields = 0, []
    while place < len(data):
        key, place = read_varint(data, place)
        value: int | bytes
        if key & 7 == VARINT:
            value, place = read_varint(data, place)
        else:
            size, place = read_varint(data, place) if key & 7 == BYTES else (4, place)
            value = data[place : place + size]
            place += size
        fields.append(Field(key >> 3, key & 7, value))
    return fields


def encoded(fields: list[Field]) -> bytes:
    parts = []
    for field in fields:
        parts.append(varint(field.number << 3 | field.wire))
        if isinstance(field.value, int):
            parts.append(varint(field.value, field.surplus))
        elif field.wire == BYTES:
            parts += [varint(len(field.value), field.surplus), field.value]
        else:
            parts.append(field.value)
    return b"".join(parts)


def rewritten(data: bytes, draw: random.Random) -> bytes:
    """Return a model with one field of one message, at any depth, rewritten."""
    return _rewritten(data, onnx.ModelProto.DESCRIPTOR, draw)


def _rewritten(data: bytes, descriptor: Any, draw: random.Random) -> bytes:
    fields = fields_of(data)
    if not fields:
        return data
    field = draw.choice(fields)
    known = descriptor.fields_by_number.get(field.number)
    inner = None if known is None else known.message_type
    # Most of a model is deeply nested.
    if inner is not None and isinstance(field.value, bytes) and field.value and draw.random() < 0.85:
        field.value = _rewritten(field.value, inner, draw)
    else:
        draw.choice(_CHANGES)(fields, field, descriptor, draw)
    return encoded(fields)


def _as_four(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    number = field.value if isinstance(field.value, int) else len(field.value)
    field.wire, field.value = FOUR, struct.pack("<I", number & 0xFFFFFFFF)


def _as_eight(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    number = field.value if isinstance(field.value, int) else len(field.value)
    field.wire, field.value = EIGHT, struct.pack("<Q", number & (2**64 - 1))


def _as_varint(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    if isinstance(field.value, bytes):
        field.wire, field.value = VARINT, int.from_bytes(field.value[:4], "little")


def _as_bytes(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    """Turn a number into a packed list of one or more, or a float into its bytes."""
    value = field.value
    again = draw.randrange(1, 4)
    field.wire, field.value = BYTES, (varint(value) if isinstance(value, int) else value) * again


def _packed(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    """Turn all numbers of a list, or all but the first, into one packed field."""
    alike = [other for other in fields if other.number == field.number and isinstance(other.value, int)]
    several = alike[draw.randrange(2) :]
    if several:
        several[0].wire, several[0].value = BYTES, b"".join(varint(int(other.value)) for other in several)
        for other in several[1:]:
            fields.remove(other)


def _twice(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    other = Field(field.number, field.wire, field.value)
    fields.insert(draw.randrange(len(fields) + 1), other)
    if isinstance(other.value, int):
        other.value = draw.choice((0, 1, 2, 5))
    elif other.wire == BYTES and draw.random() < 0.7:
        # Parsers merge a message that appears twice.
        other.value = other.value[: draw.choice((0, len(other.value) // 2))]


def _longer(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    field.surplus = draw.randrange(1, 9)


def _wrapped(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    if isinstance(field.value, int):
        by = draw.choice((2**31, 2**32, 2**63, 2**64 - 1, 2**64, 2**66))
        field.value = draw.choice((field.value + by, field.value | by, -field.value & (2**64 - 1)))


def _other_value(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    if isinstance(field.value, int):
        field.value = draw.choice((0, 1, 2, 3, 4, 6, 7, 10, 2**31 - 1, 2**32 - 1))
    elif field.wire == FOUR:
        odd = (float("nan"), float("inf"), -0.0, 1.0)
        field.value = draw.choice((*(struct.pack("<f", number) for number in odd), b"\x01\x00\xa0\x7f"))
    else:
        field.value = draw.choice((b"", field.value[:-1], field.value + b"\0", b"\xff" + field.value))


def _other_number(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    field.number = draw.choice((*(descriptor.fields_by_number), field.number + 2**29, field.number + 2**32, 0))


def _added(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    """A field that the message may have, with a value of any type."""
    number = draw.choice((*descriptor.fields_by_number, 999))
    wire, value = draw.choice(
        (
            (VARINT, draw.randrange(12)),
            (FOUR, b"\x05\0\0\0"),
            (EIGHT, b"\x05" + b"\0" * 7),
            (BYTES, b""),
            (BYTES, b"ab"),
        )
    )
    fields.insert(draw.randrange(len(fields) + 1), Field(number, wire, value))  # type: ignore[arg-type]


def _removed(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    fields.remove(field)


def _moved(fields: list[Field], field: Field, descriptor: Any, draw: random.Random) -> None:
    fields.remove(field)
    fields.insert(draw.randrange(len(fields) + 1), field)


_CHANGES = (
    _as_four,
    _as_eight,
    _as_varint,
    _as_bytes,
    _packed,
    _twice,
    _longer,
    _wrapped,
    _other_value,
    _other_number,
    _added,
    _removed,
    _moved,
)
