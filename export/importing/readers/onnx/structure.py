"""An ONNX file's structure, parsed without its weights, which stay in place in the file's bytes.

protobuf copies every weight, and turns an empty node of two bytes into a hundred. So the data of each tensor is removed
and replaced by its position before the rest, whose size is limited, is passed to onnx.

Source: onnx/onnx.proto; protobuf.dev, "Encoding".
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from alexnet_deploy.core.fs.opening import MIB
from alexnet_deploy.export.audit import is_text
from alexnet_deploy.export.importing.readers.wire import BYTES, WireError, fields

_MOST_STRUCTURE_BYTES = 1 * MIB
"""Limit on everything but the tensors' data: networks of the family have 10 to 100 kB."""
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 1 << 29
"""The limit of an architecture's parameters."""

_PLACE = struct.Struct("<QQ")
_RAW_DATA = 9
_FLOAT_DATA = 4

_INNER: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph"},
        "graph": {1: "node", 5: "tensor"},
        "node": {5: "attribute"},
        "attribute": {5: "tensor", 6: "branch"},
        # Subgraphs of an If, which torch's exporter writes around a Squeeze; it never nests them.
        "branch": {1: "branch node", 5: "tensor"},
        "branch node": {5: "branch attribute"},
        "branch attribute": {5: "tensor"},
        "tensor": {},
    }
)
_REFUSED: Mapping[tuple[str, int], str] = MappingProxyType(
    {
        ("model", 20): "training steps",
        ("model", 25): "functions of its own",
        ("graph", 15): "sparse constants",
        ("branch", 15): "sparse constants",
        ("attribute", 11): "a list of subgraphs",
        ("branch attribute", 6): "a subgraph within a subgraph",
        ("branch attribute", 11): "a list of subgraphs",
        ("tensor", 13): "weights in another file (external data), which is not opened; save it as one file",
    }
)
_TYPES: Mapping[int, str] = MappingProxyType(
    {
        TensorProto.FLOAT: "<f4",
        TensorProto.FLOAT16: "<f2",
        TensorProto.BFLOAT16: "<u2",
        TensorProto.DOUBLE: "<f8",
        TensorProto.INT64: "<i8",
        TensorProto.INT32: "<i4",
    }
)


class StructureError(Exception):
    """What is wrong with an ONNX file; the message needs the file's name in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A parsed file."""

    model: onnx.ModelProto
    """Without the tensors' data: a tensor's raw_data holds the data's position in `data`."""
    data: bytes
    """The whole file."""

    def array(self, tensor: TensorProto) -> np.ndarray:
        """Return a tensor's values, read-only: floats as float32, integers as int64; raises StructureError."""
        name, shape = tensor.name or "a constant", tuple(tensor.dims)
        if not is_shape(shape):
            raise StructureError(f"{name}: invalid tensor shape {shape[:_MOST_DIMENSIONS]}")
        if tensor.data_type not in _TYPES:
            raise StructureError(f"{name}: is of type {_type_name(tensor.data_type)}, expected floats")
        values = self._values(tensor, name)
        if len(values) != math.prod(shape):
            raise StructureError(f"{name}: has {len(values):,} values for the shape {shape}")
        if tensor.data_type == TensorProto.BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        wanted = np.int64 if values.dtype.kind in "iu" else np.float32
        return values.astype(wanted, copy=False).reshape(shape)

    def _values(self, tensor: TensorProto, name: str) -> np.ndarray:
        dtype = np.dtype(_TYPES[tensor.data_type])
        if tensor.raw_data:
            begin, end = _PLACE.unpack(tensor.raw_data)
            if (end - begin) % dtype.itemsize:
                raise StructureError(f"{name}: {end - begin:,} bytes are not a whole number of values")
            return np.frombuffer(self.data, dtype, (end - begin) // dtype.itemsize, begin)
        listed = {
            TensorProto.INT64: tensor.int64_data,
            TensorProto.INT32: tensor.int32_data,
            TensorProto.DOUBLE: tensor.double_data,
            TensorProto.FLOAT: tensor.float_data,
        }
        return np.array(listed.get(tensor.data_type, ()), dtype)


def is_shape(sizes: Sequence[int]) -> bool:
    """Return whether a tensor of a network of the family could have this shape."""
    # Few dimensions: a product of thousands of large numbers takes hours.
    return len(sizes) <= _MOST_DIMENSIONS and min(sizes, default=0) >= 0 and math.prod(sizes) <= _MOST_ELEMENTS


def read_structure(data: bytes) -> Structure:
    """Parse a file's bytes; raises StructureError."""
    budget = [_MOST_STRUCTURE_BYTES]
    try:
        stripped = _stripped(memoryview(data), 0, len(data), "model", budget)
        model = onnx.load_model_from_string(stripped)
    except (DecodeError, WireError) as error:
        raise StructureError(f"not an ONNX file, or a damaged one: {error}") from error
    if not is_text(model):
        raise StructureError("not an ONNX file, or a damaged one: it holds texts that are not UTF-8")
    return Structure(model=model, data=data)


def _stripped(data: memoryview, begin: int, end: int, kind: str, budget: list[int]) -> bytes:
    """Return a message with each tensor's data replaced by its place."""
    parts: list[bytes] = []
    has_data = False
    for field in fields(data, begin, end):
        if (refused := _REFUSED.get((kind, field.number))) is not None:
            raise StructureError(f"has {refused}")
        inner = _INNER[kind].get(field.number)
        if inner is not None and field.wire == BYTES:
            parts.append(_packed(field.number, _stripped(data, field.value, field.end, inner, budget)))
        elif kind == "tensor" and field.number in (_RAW_DATA, _FLOAT_DATA) and field.wire == BYTES:
            if has_data:
                raise StructureError("has a tensor with two sets of data")
            has_data = True
            # A missing field means no data at all.
            if field.end > field.value:
                parts.append(_packed(_RAW_DATA, _PLACE.pack(field.value, field.end)))
        else:
            parts.append(bytes(data[field.begin : field.end]))
        budget[0] -= 2 + (len(parts[-1]) if parts and inner is None else 0)
        if budget[0] < 0:
            raise StructureError(
                f"has over {_MOST_STRUCTURE_BYTES:,} bytes beside its tensors, too many for an AlexNet-like network"
            )
    return b"".join(parts)


def _packed(number: int, value: bytes) -> bytes:
    length, size = bytearray(), len(value)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | BYTES]) + bytes(length) + value


def _type_name(number: int) -> str:
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)
