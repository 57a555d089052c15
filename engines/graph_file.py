"""The structure of an ONNX file, parsed from its bytes without onnx and without copying the weights.

A protobuf message is a sequence of fields: a key (number and wire type), then a varint, four bytes, eight bytes, or a
length and that many bytes. Each message type has a list of the fields that our writer writes. Every other field is
refused by its number, and so is a duplicate of a field that occurs once: parsers disagree about which one counts. So
functions, subgraphs, external data, training steps and sparse constants are refused, also under new names.

Each field must have the wire type that onnx writes: protobuf skips a known field of another type, which then has its
default value. Varints must be minimal and fit their field: protobuf truncates longer ones.

Source: onnx/onnx.proto, IR version 9; protobuf.dev, "Encoding".
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Field: TypeAlias = int | memoryview
"""A varint as a number, or the bytes of a length or of a float."""
AttributeValue: TypeAlias = int | float | tuple[int, ...]

_VARINT, _BYTES, _FOUR = 0, 2, 5
_WIRE_TYPES: Mapping[int, str] = {_VARINT: "a varint", 1: "eight bytes", _BYTES: "a length", _FOUR: "four bytes"}
_LARGEST_INT32 = 2**31 - 1
_MOST_NODES = 4096
_MOST_DIMENSIONS = 8
_LONGEST_NAME = 256
_LONGEST_LIST = 64

FLOAT, UINT8, INT8, INT64, FLOAT16 = 1, 2, 3, 7, 10
"""TensorProto.DataType of what our writer writes."""
ELEMENT_BYTES: Mapping[int, int] = {FLOAT: 4, UINT8: 1, INT8: 1, INT64: 8, FLOAT16: 2}

_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7
"""AttributeProto.AttributeType of what our writer writes."""


class GraphFileError(Exception):
    """What is wrong with an ONNX file; the message needs the file's name in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of the graph."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, AttributeValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One initializer."""

    element: int
    """TensorProto.DataType."""
    shape: tuple[int, ...]
    data: memoryview
    """Little-endian, row-major, of the length that the shape requires."""

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return len(self.data) // ELEMENT_BYTES[self.element]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output of the graph."""

    name: str
    element: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """The contents of an ONNX file."""

    ir_version: int
    opset: int
    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """The wire type of a field, and whether it may repeat."""

    wire: int
    is_repeated: bool = False


_INT = _Rule(wire=_VARINT)
_INTS = _Rule(wire=_VARINT, is_repeated=True)
_REAL = _Rule(wire=_FOUR)
_PART = _Rule(wire=_BYTES)
_PARTS = _Rule(wire=_BYTES, is_repeated=True)
_Rules: TypeAlias = Mapping[int, _Rule]

_MODEL: _Rules = {1: _INT, 2: _PART, 7: _PART, 8: _PART, 14: _PARTS}
_GRAPH: _Rules = {1: _PARTS, 2: _PART, 5: _PARTS, 11: _PARTS, 12: _PARTS}
_NODE: _Rules = {1: _PARTS, 2: _PARTS, 3: _PART, 4: _PART, 5: _PARTS, 7: _PART}
_ATTRIBUTE: _Rules = {1: _PART, 2: _REAL, 3: _INT, 8: _INTS, 20: _INT}
_TENSOR: _Rules = {1: _INTS, 2: _INT, 8: _PART, 9: _PART, 13: _PARTS, 14: _INT}
_OPSET: _Rules = {1: _PART, 2: _INT}
_VALUE: _Rules = {1: _PART, 2: _PART}
_TYPE: _Rules = {1: _PART}
_TENSOR_TYPE: _Rules = {1: _INT, 2: _PART}
_SHAPE: _Rules = {1: _PARTS}
_DIMENSION: _Rules = {1: _INT, 2: _PART}
_METADATA: _Rules = {1: _PART, 2: _PART}

_FORBIDDEN = {
    ("the model", 25): "functions",
    ("the model", 20): "training steps",
    ("the graph", 15): "sparse constants",
    ("an attribute", 6): "a subgraph",
    ("an attribute", 11): "subgraphs",
}


def read_graph_file(data: bytes) -> GraphFile:
    """Return the contents of an ONNX file; raises GraphFileError for anything that our writer never writes."""
    model = _message(memoryview(data), _MODEL, "the model")
    for encoded in model.get(14, []):
        _message(_as_bytes(encoded, "metadata"), _METADATA, "metadata")
    opset = _message(_bytes_of(model, 8, "the model"), _OPSET, "an opset")
    if domain := _text_of(opset, 1, "an opset", ""):
        raise GraphFileError(f"imports operators of the domain {domain!r}")
    graph = _message(_bytes_of(model, 7, "the model"), _GRAPH, "the graph")
    encoded_nodes = graph.get(1, [])
    if len(encoded_nodes) > _MOST_NODES:
        raise GraphFileError(f"has {len(encoded_nodes):,} nodes, more than {_MOST_NODES:,}")
    nodes = tuple(_node(_as_bytes(encoded, "a node")) for encoded in encoded_nodes)
    constants: dict[str, Constant] = {}
    for encoded in graph.get(5, []):
        name, constant = _constant(_as_bytes(encoded, "a constant"))
        if name in constants:
            raise GraphFileError(f"two constants have the same name, {name}")
        constants[name] = constant
    return GraphFile(
        ir_version=_int_of(model, 1, "the model"),
        opset=_int_of(opset, 2, "an opset"),
        nodes=nodes,
        constants=constants,
        inputs=tuple(_value(_as_bytes(encoded, "an input")) for encoded in graph.get(11, [])),
        outputs=tuple(_value(_as_bytes(encoded, "an output")) for encoded in graph.get(12, [])),
    )


def is_readable(data: bytes) -> bool:
    """Return whether read_graph_file accepts these bytes."""
    try:
        read_graph_file(data)
    except GraphFileError:
        return False
    return True


def _node(data: memoryview) -> Node:
    fields = _message(data, _NODE, "a node")
    name = _text_of(fields, 3, "a node")
    if domain := _text_of(fields, 7, "a node", ""):
        raise GraphFileError(f"{name}: is an operator of the domain {domain!r}")
    attributes: dict[str, AttributeValue] = {}
    for encoded in fields.get(5, []):
        try:
            key, value = _attribute(_as_bytes(encoded, "an attribute"))
        except GraphFileError as error:
            raise GraphFileError(f"{name}: {error}") from error
        if key in attributes:
            raise GraphFileError(f"{name}: has the attribute {key} twice")
        attributes[key] = value
    return Node(
        name=name,
        op=_text_of(fields, 4, "a node"),
        inputs=tuple(_text(encoded, "a node") for encoded in fields.get(1, [])),
        outputs=tuple(_text(encoded, "a node") for encoded in fields.get(2, [])),
        attributes=attributes,
    )


def _attribute(data: memoryview) -> tuple[str, AttributeValue]:
    fields = _message(data, _ATTRIBUTE, "an attribute")
    name, kind = _text_of(fields, 1, "an attribute"), _int32_of(fields, 20, "an attribute")
    # With a second value field, a parser that ignores the type would read a different value.
    if kind == _ATTRIBUTE_FLOAT and fields.keys() == {1, 2, 20}:
        return name, struct.unpack("<f", _bytes_of(fields, 2, "an attribute"))[0]
    if kind == _ATTRIBUTE_INT and fields.keys() == {1, 3, 20}:
        return name, _int_of(fields, 3, "an attribute")
    if kind == _ATTRIBUTE_INTS and fields.keys() == {1, 8, 20}:
        return name, _numbers(fields[8])
    raise GraphFileError(f"the attribute {name} is of type {kind}, expected a float, an integer or integers")


def _constant(data: memoryview) -> tuple[str, Constant]:
    fields = _message(data, _TENSOR, "a constant")
    name, element = _text_of(fields, 8, "a constant"), _int32_of(fields, 2, "a constant")
    if 13 in fields or 14 in fields:
        raise GraphFileError(f"{name}: lies outside the graph's own file")
    shape = _numbers(fields.get(1, []))
    raw = _bytes_of(fields, 9, "a constant", memoryview(b""))
    wanted = ELEMENT_BYTES.get(element)
    if wanted is None or len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise GraphFileError(
            f"{name}: is of type {element} and shape {list(shape)}, which our writer does not write for a constant"
        )
    for size in shape:
        wanted *= size
    if wanted != len(raw):
        raise GraphFileError(f"{name}: has {len(raw):,} bytes of data in the graph file, expected {wanted:,}")
    return name, Constant(element=element, shape=shape, data=raw)


def _value(data: memoryview) -> Value:
    fields = _message(data, _VALUE, "an input or output")
    name = _text_of(fields, 1, "an input or output")
    kind = _message(_bytes_of(fields, 2, name), _TYPE, name)
    tensor = _message(_bytes_of(kind, 1, name), _TENSOR_TYPE, name)
    dimensions = _message(_bytes_of(tensor, 2, name), _SHAPE, name).get(1, [])
    shape: list[int | str] = []
    for encoded in dimensions[: _MOST_DIMENSIONS + 1]:
        dimension = _message(_as_bytes(encoded, name), _DIMENSION, name)
        if len(dimension) != 1:
            raise GraphFileError(f"{name}: has a dimension that is neither one number nor one name")
        shape.append(_text_of(dimension, 2, name) if 2 in dimension else _int_of(dimension, 1, name))
    return Value(name=name, element=_int32_of(tensor, 1, name), shape=tuple(shape))


def _message(data: memoryview, rules: _Rules, subject: str) -> dict[int, list[Field]]:
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


def _numbers(values: list[Field]) -> tuple[int, ...]:
    """Return a repeated field of integers, one number per field; onnx does not write packed fields."""
    if len(values) > _LONGEST_LIST:
        raise GraphFileError(f"has a list of more than {_LONGEST_LIST} numbers, but our writer writes at most 4")
    return tuple(_signed(value) for value in values if isinstance(value, int))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _as_bytes(value: Field, subject: str) -> memoryview:
    if isinstance(value, int):
        raise GraphFileError(f"cannot be parsed: {subject} is a number")
    return value


def _bytes_of(
    fields: Mapping[int, list[Field]], number: int, subject: str, otherwise: memoryview | None = None
) -> memoryview:
    if number in fields:
        return _as_bytes(fields[number][0], subject)
    if otherwise is None:
        raise GraphFileError(f"cannot be parsed: {subject} has no field {number}")
    return otherwise


def _int_of(fields: Mapping[int, list[Field]], number: int, subject: str) -> int:
    value = fields[number][0] if number in fields else None
    if not isinstance(value, int):
        raise GraphFileError(f"cannot be parsed: {subject} has no number in field {number}")
    return _signed(value)


def _int32_of(fields: Mapping[int, list[Field]], number: int, subject: str) -> int:
    value = _int_of(fields, number, subject)
    if not 0 <= value <= _LARGEST_INT32:
        raise GraphFileError(f"{subject} has {value} in field {number}, which is out of the field's range")
    return value


def _text_of(fields: Mapping[int, list[Field]], number: int, subject: str, otherwise: str | None = None) -> str:
    if number not in fields and otherwise is not None:
        return otherwise
    return _text(_bytes_of(fields, number, subject), subject)


def _text(value: Field, subject: str) -> str:
    data = _as_bytes(value, subject)
    if len(data) > _LONGEST_NAME:
        raise GraphFileError(f"{subject} has a name of {len(data):,} bytes")
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise GraphFileError(f"cannot be parsed: {subject} has a name that is not UTF-8") from error
