"""Caffe's models (.caffemodel): V1 layers, as bvlc_alexnet of 2014 has them, and V2 layers.

A model holds its layers with all their constants, so nothing of the network is guessed: AlexNet and CaffeNet, whose
weights have equal shapes, differ in the order of their layers. It does not say how images are resized, nor that
its channels are BGR; the mean may be in a file of its own.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256_of_open
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.readers.caffe.layers import (
    CaffeLayer,
    ChainError,
    chain_of,
    check_fit,
    input_size_of,
)
from alexnet_deploy.export.importing.readers.wire import BYTES, WireError, fields
from alexnet_deploy.export.importing.source import Source, SourcePreprocessing

M = TypeVar("M", bound=Message)

_NAME, _V1_LAYERS, _V2_LAYERS = 1, 2, 100
_MOST_LAYERS = 200
_MOST_VALUES = 1 << 29
"""The limit of an architecture's parameters."""
_MOST_HEADER_BYTES = 1 << 16


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file begins as a NetParameter: its name, then a layer or an input."""
    data = memoryview(start)
    if not start or start[0] != _NAME << 3 | BYTES:
        return False
    try:
        name = next(fields(data, 0, len(data)))
        if not bytes(data[name.value : name.end]).decode().isprintable():
            return False
        key = _key(data[name.end : name.end + 2])
    except (WireError, StopIteration, UnicodeDecodeError, IndexError):
        return False
    return key in {number << 3 | BYTES for number in (_V1_LAYERS, 3, 8, _V2_LAYERS)} | {4 << 3}


def read(path: Path) -> Source:
    """Return its tensors and layers; see Reader.read."""
    try:
        with open_input(path) as file:
            digest = sha256_of_open(file)
            # Not closed explicitly: the frames of an error still reference parts of it. The last reference frees it.
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return _read(path, memoryview(whole), digest)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (WireError, DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: is not a Caffe model, or is damaged: {error}") from error
    except ChainError as error:
        raise WeightsError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CaffeModel:
    """A model as it was parsed."""

    header: messages.NetHeader
    layers: tuple[CaffeLayer, ...]
    """Without their blobs."""
    tensors: dict[str, np.ndarray]
    """float32, as LAYER.0, LAYER.1 and so on."""
    version: Literal["V1", "V2"]


def _read(path: Path, data: memoryview, sha256: str) -> Source:
    model = parse_model(data)
    check_fit(model.layers, model.tensors, "its list of layers")
    size = input_size_of(model.header, model.layers)
    return Source(
        path=path,
        sha256=sha256,
        format=f"Caffe model ({model.version} layers)",
        tensors=model.tensors,
        layers=chain_of(model.layers, model.tensors),
        preprocessing=SourcePreprocessing(
            input_size=size, mean=mean_value_of(model.layers), scale=scale_of(model.layers)
        ),
        labels=None,
    )


def parse_model(data: memoryview) -> CaffeModel:
    """Return a model's layers and tensors; raises ChainError, WireError and protobuf's DecodeError."""
    header, layers, tensors = bytearray(), [], {}
    is_v1 = False
    for field in fields(data, 0, len(data)):
        if field.number not in (_V1_LAYERS, _V2_LAYERS):
            header += data[field.begin : field.end]
            if len(header) > _MOST_HEADER_BYTES:
                raise ChainError(f"has over {_MOST_HEADER_BYTES:,} bytes besides its layers")
            continue
        is_v1 = is_v1 or field.number == _V1_LAYERS
        part = data[field.value : field.end]
        layer = CaffeLayer.of(
            _parsed(messages.V1LayerParameter(), part)
            if field.number == _V1_LAYERS
            else _parsed(messages.LayerParameter(), part)
        )
        if layer.message.blobs and f"{layer.name}.0" in tensors:
            raise ChainError(f"has weights for two layers called {layer.name[:100]}")
        for number, blob in enumerate(layer.message.blobs):
            values = array_of(blob, f"{layer.name}: blob {number}")
            tensors[f"{layer.name}.{number}"] = values.reshape(_shape_of(layer, number, values.shape))
        del layer.message.blobs[:]
        layers.append(layer)
        if len(layers) > _MOST_LAYERS:
            raise ChainError(f"has more than {_MOST_LAYERS} layers")
    return CaffeModel(
        header=_parsed(messages.NetHeader(), memoryview(header)),
        layers=tuple(layers),
        tensors=tensors,
        version="V1" if is_v1 else "V2",
    )


def _shape_of(layer: CaffeLayer, number: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a blob's shape without the leading ones of V1: a matrix, or a row if it is not a layer's weights."""
    if number > 0 or layer.type not in ("Convolution", "InnerProduct"):
        return (math.prod(shape),)
    return (math.prod(shape[:-1]), shape[-1]) if layer.type == "InnerProduct" and shape else shape


def _parsed(message: M, data: memoryview) -> M:
    message.ParseFromString(bytes(data))
    return message


def array_of(blob: messages.BlobProto, subject: str) -> np.ndarray:
    """Return a BlobProto's numbers, float32, in its own shape; V1 shapes have four dimensions.

    Raises ChainError, with the subject, if they do not fit its shape.
    """
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    if len(shape) > 8 or min(shape, default=1) < 1 or math.prod(shape) > _MOST_VALUES:
        raise ChainError(f"{subject} has the shape {shape[:8]}")
    dtype, data = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    if len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ChainError(f"{subject} has {len(data):,} bytes, which do not match its shape {shape}")
    values = np.frombuffer(data, dtype).astype(np.float32, copy=False)
    return values.reshape(shape)


def mean_value_of(layers: Sequence[CaffeLayer]) -> tuple[float, float, float] | None:
    """Return the means that a layer of data subtracts, red first; None where it says none."""
    for layer in layers:
        values = list(layer.message.transform_param.mean_value) if layer.has("transform_param") else []
        if len(values) in (1, 3):
            blue, green, red = values * 3 if len(values) == 1 else values
            return red, green, blue
    return None


def scale_of(layers: Sequence[CaffeLayer]) -> tuple[float, float, float] | None:
    """Return what a layer of data multiplies by; None where it says nothing."""
    for layer in layers:
        if layer.has("transform_param") and layer.message.transform_param.HasField("scale"):
            scale = layer.message.transform_param.scale
            return scale, scale, scale
    return None


def _key(data: memoryview) -> int:
    first, second = data[0], data[1]
    return first if first < 0x80 else first & 0x7F | second << 7
