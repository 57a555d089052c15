"""The fields of an ONNX file's messages, parsed strictly and without copying.

A protobuf message is a sequence of fields: a key (number and wire type), then a varint, four bytes, eight bytes, or a
length and that many bytes. Each message type has a list of the fields that our writer writes. Every other field is
refused by its number, and so is a duplicate of a field that occurs once: parsers disagree about which one counts.

Each field must have the wire type that onnx writes: protobuf skips a known field of another type, which then has its
default value. Varints must be minimal and fit their field: protobuf truncates longer ones.

Source: protobuf.dev, "Encoding".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Field: TypeAlias = int | memoryview
"""A varint as a number, or the bytes of a length or of a float."""

_VARINT, _BYTES, _FOUR = 0, 2, 5
_WIRE_TYPES: Mapping[int, str] = {_VARINT: "a varint", 1: "eight bytes", _BYTES: "a length", _FOUR: "four bytes"}
_LARGEST_INT32 = 2**31 - 1
_LONGEST_NAME = 256
_LONGEST_LIST = 64


class GraphFileError(Exception):
    """What is wrong with an ONNX file; the message needs the file's name in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """The wire type of a field, and whether it may repeat."""

    wire: int
    is_repeated: bool = False


INT = _Rule(wire=_VARINT)
INTS = _Rule(wire=_VARINT, is_repeated=True)
REAL = _Rule(wire=_FOUR)
PART = _Rule(wire=_BYTES)
PARTS = _Rule(wire=_BYTES, is_repeated=True)
Rules: TypeAlias = Mapping[int, _Rule]

_FORBIDDEN = {
    ("the model", 25): "functions",
    ("the model", 20): "training steps",
    ("the graph", 15): "sparse constants",
    ("an attribute", 6): "a subgraph",
    ("an attribute", 11): "subgraphs",
}


def message_of(data: memoryview, rules: Rules, subject: str) -> dict[int, list[Field]]:
    """Return a message's fields by number; raises GraphFileError for a field without a rule or against its rule."""
    found: dict[int, list[Field]] = {}
    for number, wire, value in _fields(data, subject):
        rule = rules.get(number)
        if rule is None:
            what = _FORBIDDEN.get((subject, number), f"field {number}, which our writer does not write")
            raise GraphFileError(f"{subject} has {what}")
        if wire != rule.wire:
            raise GraphFileError(
                f"{subject} has field {number} as {_WIRE_TYPES[wire]}, but our writer writes {_WIRE_TYPES[rule.wire]}"
            )
        values = found.setdefault(number, [])
        if values and not rule.is_repeated:
            raise GraphFileError(f"{subject} has field {number} twice")
        values.append(value)
    return found


def _fields(data: memoryview, subject: str) -> Iterator[tuple[int, int, Field]]:
    """Yield the number, wire type and value of each field."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place, subject)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(data, place, subject)
            yield key >> 3, wire, value
            continue
        size = 4
        if wire == _BYTES:
            size, place = _varint(data, place, subject)
        elif wire != _FOUR:
            raise GraphFileError(f"cannot be parsed: {subject} has a field of wire type {wire}")
        if size > end - place:
            raise GraphFileError(f"cannot be parsed: {subject} ends in the middle of a field")
        yield key >> 3, wire, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int, subject: str) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 2**64 or (byte == 0 and shift):
                raise GraphFileError(f"cannot be parsed: {subject} has a varint that is not minimal")
            return value, place
        shift += 7
    raise GraphFileError(f"cannot be parsed: {subject} ends in the middle of a number")


def numbers(values: list[Field]) -> tuple[int, ...]:
    """Return a repeated field of integers, one number per field; onnx does not write packed fields."""
    if len(values) > _LONGEST_LIST:
        raise GraphFileError(f"has a list of more than {_LONGEST_LIST} numbers, but our writer writes at most 4")
    return tuple(_signed(value) for value in values if isinstance(value, int))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def as_bytes(value: Field, subject: str) -> memoryview:
    """Return the bytes of a field; raises GraphFileError if it is a number."""
    if isinstance(value, int):
        raise GraphFileError(f"cannot be parsed: {subject} is a number")
    return value


def bytes_of(
    fields: Mapping[int, list[Field]], number: int, subject: str, otherwise: memoryview | None = None
) -> memoryview:
    """Return the bytes of field `number`, or `otherwise` if it is absent; raises GraphFileError without either."""
    if number in fields:
        return as_bytes(fields[number][0], subject)
    if otherwise is None:
        raise GraphFileError(f"cannot be parsed: {subject} has no field {number}")
    return otherwise


def int_of(fields: Mapping[int, list[Field]], number: int, subject: str) -> int:
    """Return the signed number in field `number`; raises GraphFileError if there is none."""
    value = fields[number][0] if number in fields else None
    if not isinstance(value, int):
        raise GraphFileError(f"cannot be parsed: {subject} has no number in field {number}")
    return _signed(value)


def int32_of(fields: Mapping[int, list[Field]], number: int, subject: str) -> int:
    """Return the number in field `number`; raises GraphFileError if it is absent, negative or beyond 32 bits."""
    value = int_of(fields, number, subject)
    if not 0 <= value <= _LARGEST_INT32:
        raise GraphFileError(f"{subject} has {value} in field {number}, which is out of the field's range")
    return value


def text_of(fields: Mapping[int, list[Field]], number: int, subject: str, otherwise: str | None = None) -> str:
    """Return the text of field `number`, or `otherwise` if it is absent; raises GraphFileError without either."""
    if number not in fields and otherwise is not None:
        return otherwise
    return text(bytes_of(fields, number, subject), subject)


def text(value: Field, subject: str) -> str:
    """Return a field as text; raises GraphFileError if it is too long or not UTF-8."""
    data = as_bytes(value, subject)
    if len(data) > _LONGEST_NAME:
        raise GraphFileError(f"{subject} has a name of {len(data):,} bytes")
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise GraphFileError(f"cannot be parsed: {subject} has a name that is not UTF-8") from error
