"""The messages of the Open Inference Protocol v2 over HTTP, with its binary tensor data extension.

A request asks for one tensor: `images`, UINT8 (N, 256, 256, 3), or `encoded_images`, BYTES (N), the bytes of image
files. In JSON these are numbers, and base64 texts. The answer holds the graph's output, or the classes of Triton's
classification extension.

Sources: https://github.com/kserve/open-inference-protocol, inference_rest.md; Triton's extension_binary_data.md and
extension_classification.md.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType

from alexnet_deploy.core.bundle.contract import IMAGES, Output
from alexnet_deploy.core.inference_protocol import HEADER_LENGTH, pack_elements, split_elements
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.serve.errors import RequestError

ENCODED_IMAGES = "encoded_images"
"""Name of the input that takes the bytes of image files."""

_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)

_MOST_DIGITS = 18

Parameters: TypeAlias = dict[str, bool | int | float | str | None]

Images: TypeAlias = np.ndarray | tuple[bytes, ...]
"""Pixels, uint8 (N, 256, 256, 3), or the bytes of N image files."""


class _Input(Struct, frozen=True, kw_only=True):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: Parameters = {}
    data: Raw | UnsetType = UNSET


class _Output(Struct, frozen=True, kw_only=True):
    name: str
    parameters: Parameters = {}


class _Request(Struct, frozen=True, kw_only=True):
    id: str | UnsetType = UNSET
    parameters: Parameters = {}
    inputs: tuple[_Input, ...]
    outputs: tuple[_Output, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, understood."""

    images: Images
    id: str | None
    is_binary: bool
    """Whether the output is wanted in binary."""
    num_classes: int
    """Classes of the classification extension; 0 for the output itself."""


def read_request(body: bytes, header_length: str | None, output: Output, most_images: int) -> Asked:
    """Understand the body of an inference request; raises RequestError, status 400 or 413."""
    head, blob = _parts(body, header_length)
    try:
        request = msgspec.json.decode(head, type=_Request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the request cannot be read: {error}") from error
    if len(request.inputs) != 1:
        raise RequestError(400, f"a request has one input, {IMAGES} or {ENCODED_IMAGES}, got {len(request.inputs)}")
    (tensor,) = request.inputs
    wanted = request.outputs[0] if request.outputs else _Output(name=output.name)
    if len(request.outputs) > 1 or wanted.name != output.name:
        names = ", ".join(found.name for found in request.outputs)
        raise RequestError(400, f"the model has one output, {output.name}, but the request asks for {names}")
    num_images = tensor.shape[0] if tensor.shape else 0
    if num_images > most_images:
        raise RequestError(413, f"a request has at most {most_images:,} images, got {num_images:,}")
    num_classes = _num_classes(wanted, output)
    is_binary = wanted.parameters.get("binary_data", request.parameters.get("binary_data_output", False))
    return Asked(
        images=_images(tensor, blob),
        id=None if isinstance(request.id, UnsetType) else request.id,
        is_binary=is_binary is True,
        num_classes=num_classes,
    )


def _parts(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    is_number = header_length.isascii() and header_length.isdigit()
    # By its length first: Python does not convert thousands of digits.
    if not is_number or len(header_length) > _MOST_DIGITS or int(header_length) > len(body):
        raise RequestError(400, f"{HEADER_LENGTH} must be 0 to {len(body)}, the length of the body")
    length = int(header_length)
    return body[:length], body[length:]


def _num_classes(wanted: _Output, output: Output) -> int:
    number = wanted.parameters.get("classification", 0)
    if not isinstance(number, int) or number < 0:
        raise RequestError(400, f"classification must be a number of classes, got {number!r}")
    if number and output.layer is not None:
        raise RequestError(400, f"the model returns {output.words}, which have no classes")
    return min(number, output.size)


def _images(tensor: _Input, blob: bytes) -> Images:
    kinds = {IMAGES: ("UINT8", _SHAPE), ENCODED_IMAGES: ("BYTES", ())}
    if tensor.name not in kinds:
        raise RequestError(400, f"{tensor.name!r} is not an input of the model; use {IMAGES} or {ENCODED_IMAGES}")
    datatype, shape = kinds[tensor.name]
    if tensor.datatype != datatype or tensor.shape[1:] != shape or tensor.shape[:1] < (1,):
        wanted = ", ".join(map(str, ("N", *shape)))
        raise RequestError(
            400, f"{tensor.name} must be {datatype} ({wanted}), N of 1 or more, got {tensor.datatype} {tensor.shape}"
        )
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if blob:
            raise RequestError(400, f"{len(blob):,} bytes follow the JSON, but {tensor.name} has no binary_data_size")
        return _from_json(tensor)
    if size != len(blob) or isinstance(size, bool):
        raise RequestError(400, f"{tensor.name}: binary_data_size is {size!r}, but {len(blob):,} bytes follow the JSON")
    if not isinstance(tensor.data, UnsetType):
        raise RequestError(400, f"{tensor.name} has both data and binary_data_size")
    if tensor.name == ENCODED_IMAGES:
        try:
            return split_elements(blob, tensor.shape[0])
        except ValueError as error:
            raise RequestError(400, f"{ENCODED_IMAGES}: {error}") from error
    _check_size(len(blob), tensor)
    return np.frombuffer(blob, np.uint8).reshape(tensor.shape)


def _check_size(found: int, tensor: _Input) -> None:
    if found != (wanted := math.prod(tensor.shape)):
        raise RequestError(400, f"{tensor.name} {tensor.shape} needs {wanted:,} values, got {found:,}")


def _from_json(tensor: _Input) -> Images:
    if isinstance(tensor.data, UnsetType):
        raise RequestError(400, f"{tensor.name} has neither data nor binary_data_size")
    if tensor.name == ENCODED_IMAGES:
        return _from_texts(tensor)
    try:
        values = np.asarray(msgspec.json.decode(tensor.data))
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(400, f"{tensor.name}: data is not an array of whole numbers") from error
    if values.dtype.kind not in "iu" or not 0 <= values.min(initial=0) <= values.max(initial=0) <= 255:
        raise RequestError(400, f"{tensor.name}: data must be whole numbers, 0 to 255")
    _check_size(values.size, tensor)
    return values.astype(np.uint8).reshape(tensor.shape)


def _from_texts(tensor: _Input) -> tuple[bytes, ...]:
    try:
        texts = msgspec.json.decode(tensor.data if isinstance(tensor.data, Raw) else b"", type=list[str])
        elements = tuple(base64.b64decode(text, validate=True) for text in texts)
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise RequestError(400, f"{tensor.name}: in JSON each element must be a base64 text") from error
    _check_size(len(elements), tensor)
    return elements


def write_answer(
    asked: Asked, outputs: np.ndarray, output: Output, labels: Sequence[str], model: str, version: str
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON part if binary data follow it.

    `outputs` are float32 (N, K) or (N, D).
    """
    datatype, shape = "FP32", outputs.shape
    data: object
    if asked.num_classes:
        datatype, shape = "BYTES", (len(outputs), asked.num_classes)
        texts = [text for row in outputs for text in _classes(row, labels, asked.num_classes)]
        data, blob = texts, pack_elements(text.encode() for text in texts)
    else:
        data, blob = outputs.ravel().tolist(), outputs.astype("<f4", copy=False).tobytes()
    tensor: dict[str, object] = {"name": output.name, "datatype": datatype, "shape": shape}
    tensor |= {"parameters": {"binary_data_size": len(blob)}} if asked.is_binary else {"data": data}
    answer: dict[str, object] = {"model_name": model, "model_version": version, "outputs": [tensor]}
    if asked.id is not None:
        answer["id"] = asked.id
    head = msgspec.json.encode(answer)
    return (head + blob, len(head)) if asked.is_binary else (head, None)


def _classes(row: np.ndarray, labels: Sequence[str], number: int) -> list[str]:
    """Return the most probable classes as Triton writes them: probability, index and label, with colons."""
    order = np.argsort(-row, kind="stable")[:number]
    return [f"{row[index]:f}:{index}:{labels[index]}" for index in order]
