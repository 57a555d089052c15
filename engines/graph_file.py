"""The structure of an ONNX file, parsed from its bytes without onnx and without copying the weights.

Only the fields that our writer writes are accepted (see graph_wire.py). So functions, subgraphs, external data,
training steps and sparse constants are refused, also under new names.

Source: onnx/onnx.proto, IR version 9.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from alexnet_deploy.engines.graph_wire import (
    INT,
    INTS,
    PART,
    PARTS,
    REAL,
    GraphFileError,
    Rules,
    as_bytes,
    bytes_of,
    int32_of,
    int_of,
    message_of,
    numbers,
    text,
    text_of,
)

AttributeValue: TypeAlias = int | float | tuple[int, ...]

_MOST_NODES = 4096
_MOST_DIMENSIONS = 8

FLOAT, UINT8, INT8, INT64, FLOAT16 = 1, 2, 3, 7, 10
"""TensorProto.DataType of what our writer writes."""
ELEMENT_BYTES: Mapping[int, int] = {FLOAT: 4, UINT8: 1, INT8: 1, INT64: 8, FLOAT16: 2}

_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7
"""AttributeProto.AttributeType of what our writer writes."""


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


_MODEL: Rules = {1: INT, 2: PART, 7: PART, 8: PART, 14: PARTS}
_GRAPH: Rules = {1: PARTS, 2: PART, 5: PARTS, 11: PARTS, 12: PARTS}
_NODE: Rules = {1: PARTS, 2: PARTS, 3: PART, 4: PART, 5: PARTS, 7: PART}
_ATTRIBUTE: Rules = {1: PART, 2: REAL, 3: INT, 8: INTS, 20: INT}
_TENSOR: Rules = {1: INTS, 2: INT, 8: PART, 9: PART, 13: PARTS, 14: INT}
_OPSET: Rules = {1: PART, 2: INT}
_VALUE: Rules = {1: PART, 2: PART}
_TYPE: Rules = {1: PART}
_TENSOR_TYPE: Rules = {1: INT, 2: PART}
_SHAPE: Rules = {1: PARTS}
_DIMENSION: Rules = {1: INT, 2: PART}
_METADATA: Rules = {1: PART, 2: PART}


def read_graph_file(data: bytes) -> GraphFile:
    """Return the contents of an ONNX file; raises GraphFileError for anything that our writer never writes."""
    model = message_of(memoryview(data), _MODEL, "the model")
    for encoded in model.get(14, []):
        message_of(as_bytes(encoded, "metadata"), _METADATA, "metadata")
    opset = message_of(bytes_of(model, 8, "the model"), _OPSET, "an opset")
    if domain := text_of(opset, 1, "an opset", ""):
        raise GraphFileError(f"imports operators of the domain {domain!r}")
    graph = message_of(bytes_of(model, 7, "the model"), _GRAPH, "the graph")
    encoded_nodes = graph.get(1, [])
    if len(encoded_nodes) > _MOST_NODES:
        raise GraphFileError(f"has {len(encoded_nodes):,} nodes, more than {_MOST_NODES:,}")
    nodes = tuple(_node(as_bytes(encoded, "a node")) for encoded in encoded_nodes)
    constants: dict[str, Constant] = {}
    for encoded in graph.get(5, []):
        name, constant = _constant(as_bytes(encoded, "a constant"))
        if name in constants:
            raise GraphFileError(f"two constants have the same name, {name}")
        constants[name] = constant
    return GraphFile(
        ir_version=int_of(model, 1, "the model"),
        opset=int_of(opset, 2, "an opset"),
        nodes=nodes,
        constants=constants,
        inputs=tuple(_value(as_bytes(encoded, "an input")) for encoded in graph.get(11, [])),
        outputs=tuple(_value(as_bytes(encoded, "an output")) for encoded in graph.get(12, [])),
    )


def is_readable(data: bytes) -> bool:
    """Return whether read_graph_file accepts these bytes."""
    try:
        read_graph_file(data)
    except GraphFileError:
        return False
    return True


def _node(data: memoryview) -> Node:
    fields = message_of(data, _NODE, "a node")
    name = text_of(fields, 3, "a node")
    if domain := text_of(fields, 7, "a node", ""):
        raise GraphFileError(f"{name}: is an operator of the domain {domain!r}")
    attributes: dict[str, AttributeValue] = {}
    for encoded in fields.get(5, []):
        try:
            key, value = _attribute(as_bytes(encoded, "an attribute"))
        except GraphFileError as error:
            raise GraphFileError(f"{name}: {error}") from error
        if key in attributes:
            raise GraphFileError(f"{name}: has the attribute {key} twice")
        attributes[key] = value
    return Node(
        name=name,
        op=text_of(fields, 4, "a node"),
        inputs=tuple(text(encoded, "a node") for encoded in fields.get(1, [])),
        outputs=tuple(text(encoded, "a node") for encoded in fields.get(2, [])),
        attributes=attributes,
    )


def _attribute(data: memoryview) -> tuple[str, AttributeValue]:
    fields = message_of(data, _ATTRIBUTE, "an attribute")
    name, kind = text_of(fields, 1, "an attribute"), int32_of(fields, 20, "an attribute")
    # With a second value field, a parser that ignores the type would read a different value.
    if kind == _ATTRIBUTE_FLOAT and fields.keys() == {1, 2, 20}:
        return name, struct.unpack("<f", bytes_of(fields, 2, "an attribute"))[0]
    if kind == _ATTRIBUTE_INT and fields.keys() == {1, 3, 20}:
        return name, int_of(fields, 3, "an attribute")
    if kind == _ATTRIBUTE_INTS and fields.keys() == {1, 8, 20}:
        return name, numbers(fields[8])
    raise GraphFileError(f"the attribute {name} is of type {kind}, expected a float, an integer or integers")


def _constant(data: memoryview) -> tuple[str, Constant]:
    fields = message_of(data, _TENSOR, "a constant")
    name, element = text_of(fields, 8, "a constant"), int32_of(fields, 2, "a constant")
    if 13 in fields or 14 in fields:
        raise GraphFileError(f"{name}: stored outside the graph's file")
    shape = numbers(fields.get(1, []))
    raw = bytes_of(fields, 9, "a constant", memoryview(b""))
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
    fields = message_of(data, _VALUE, "an input or output")
    name = text_of(fields, 1, "an input or output")
    kind = message_of(bytes_of(fields, 2, name), _TYPE, name)
    tensor = message_of(bytes_of(kind, 1, name), _TENSOR_TYPE, name)
    dimensions = message_of(bytes_of(tensor, 2, name), _SHAPE, name).get(1, [])
    shape: list[int | str] = []
    for encoded in dimensions[: _MOST_DIMENSIONS + 1]:
        dimension = message_of(as_bytes(encoded, name), _DIMENSION, name)
        if len(dimension) != 1:
            raise GraphFileError(f"{name}: has a dimension that is neither one number nor one name")
        shape.append(text_of(dimension, 2, name) if 2 in dimension else int_of(dimension, 1, name))
    return Value(name=name, element=int32_of(tensor, 1, name), shape=tuple(shape))
