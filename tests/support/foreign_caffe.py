"""Caffe's models, V1 and V2, as Caffe itself writes them, with what DIGITS adds, and the forward pass of OpenCV."""

import json
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from google.protobuf.message import Message

from alexnet_deploy.core.model.architecture import (
    AveragePool,
    Conv,
    Dropout,
    Flatten,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    Tanh,
)
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages

_V1_TYPES = {
    "Convolution": 4,
    "Dropout": 6,
    "InnerProduct": 14,
    "LRN": 15,
    "Pooling": 17,
    "ReLU": 18,
    "Softmax": 20,
    "TanH": 23,
}

# Statistics of a batch norm by the name of its layer: Caffe's BatchNorm (mean, variance) and its Scale (scale, shift).
Norms = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
NO_NORMS: Norms = MappingProxyType({})


def _layers(weights: Weights, kind: type[Message], softmax: bool, norms: Norms) -> list[Message]:
    found: list[Message] = []
    blob = "data"

    def add(name: str, type_name: str) -> Message:
        nonlocal blob
        in_place = type_name in ("ReLU", "Dropout", "TanH", "BatchNorm", "Scale")
        top = blob if in_place else name
        type_value = type_name if kind is messages.LayerParameter else _V1_TYPES[type_name]
        found.append(kind(name=name, type=type_value, bottom=[blob], top=[top]))
        blob = top
        return found[-1]

    for layer in weights.architecture.layers:
        match layer:
            case Conv():
                made = add(layer.name, "Convolution")
                made.convolution_param.num_output = layer.out_channels
                made.convolution_param.kernel_size.append(layer.kernel)
                made.convolution_param.stride.append(layer.stride)
                made.convolution_param.pad.append(layer.padding[0])
                made.convolution_param.group = layer.groups
                _blobs(made, weights, layer.name)
            case Linear():
                made = add(layer.name, "InnerProduct")
                made.inner_product_param.num_output = layer.out_features
                _blobs(made, weights, layer.name)
            case Relu():
                add(layer.name, "ReLU")
            case Tanh():
                add(layer.name, "TanH")
            case Dropout():
                add(layer.name, "Dropout").dropout_param.dropout_ratio = layer.probability
            case LocalNorm():
                made = add(layer.name, "LRN")
                made.lrn_param.local_size, made.lrn_param.alpha = layer.size, layer.alpha
                made.lrn_param.beta, made.lrn_param.k = layer.beta, layer.k
            case MaxPool() | AveragePool():
                # Caffe rounds up, which is all the padding behind; padding in front is said, and is on both sides.
                made = add(layer.name, "Pooling")
                made.pooling_param.kernel_size, made.pooling_param.stride = layer.kernel, layer.stride
                made.pooling_param.pad = layer.margins[0]
                is_mean = isinstance(layer, AveragePool)
                made.pooling_param.pool = messages.PoolingParameter.AVE if is_mean else messages.PoolingParameter.MAX
            case Flatten():
                continue
            case _:
                raise AssertionError(layer)
        for part, type_name in ((0, "BatchNorm"), (2, "Scale")) if layer.name in norms else ():
            made = add(f"{layer.name}_{type_name}", type_name)
            if type_name == "Scale":
                made.scale_param.bias_term = True
            blobs = [*norms[layer.name][part : part + 2], *([np.array([2.0])] if part == 0 else [])]
            for values in blobs:
                # Caffe keeps sums over as many steps as the third blob says.
                times = 2 if part == 0 and len(values) > 1 else 1
                held = made.blobs.add(data=(values * times).astype("<f4").tobytes())
                held.shape.dim.append(len(values))
    if softmax:
        add("prob", "Softmax")
    return found


def _blobs(layer: Message, weights: Weights, name: str) -> None:
    for part in ("weight", "bias"):
        values = weights.tensors[f"{name}.{part}"]
        blob = layer.blobs.add(data=values.astype("<f4").tobytes())
        if isinstance(layer, messages.LayerParameter):
            blob.shape.dim.extend(values.shape)
        else:
            shape = (1,) * (4 - values.ndim) + values.shape
            blob.num, blob.channels, blob.height, blob.width = shape


def write_caffe(
    path: Path,
    weights: Weights,
    version: int,
    *,
    softmax: bool = True,
    norms: Norms = NO_NORMS,
    change: Callable[[list[Any]], None] = lambda layers: None,
) -> None:
    """Write a .caffemodel with layers of version 1 or 2; of version 2 with batch norms behind the layers in `norms`.

    `change` edits the list of layers, which are protobuf messages.
    """
    kind, number = (messages.V1LayerParameter, 2) if version == 1 else (messages.LayerParameter, 100)
    size = weights.architecture.input_size
    header = messages.NetHeader(name="AlexNet", input=["data"], input_dim=[1, 3, size, size])
    parts = [header.SerializeToString()]
    layers = _layers(weights, kind, softmax, norms)
    change(layers)
    for layer in layers:
        data = layer.SerializeToString()
        parts.append(_varint(number << 3 | 2) + _varint(len(data)) + data)
    path.write_bytes(b"".join(parts))


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def prototxt(weights: Weights, norms: Norms = NO_NORMS) -> str:
    """The network as text with V2 layers, which OpenCV needs beside the model."""
    from google.protobuf import text_format

    size = weights.architecture.input_size
    lines = [f'name: "AlexNet"\ninput: "data"\ninput_dim: 1 input_dim: 3 input_dim: {size} input_dim: {size}\n']
    for layer in _layers(weights, messages.LayerParameter, softmax=True, norms=norms):
        del layer.blobs[:]
        lines.append(f"layer {{\n{text_format.MessageToString(layer)}}}\n")
    return "".join(lines)


def by_opencv(model: Path, text: Path, inputs: np.ndarray) -> np.ndarray:
    """Probabilities, float32 (N, K), of what the network is fed, float32 (N, 3, S, S)."""
    import cv2

    network = cv2.dnn.readNetFromCaffe(str(text), str(model))
    answers = []
    for image in inputs:
        network.setInput(image[np.newaxis])
        answers.append(network.forward().reshape(1, -1).copy())
    return np.concatenate(answers)


def deploy_text(weights: Weights) -> bytes:
    """The deploy.prototxt of DIGITS: with what only training needs, and a phase."""
    fillers = (
        'param { lr_mult: 1 decay_mult: 1 }\n  phase: TEST\n  weight_filler_of_another_version { type: "gaussian" }\n'
    )
    return prototxt(weights).replace('  type: "Convolution"\n', f'  type: "Convolution"\n  {fillers}').encode()


def mean_file(image: np.ndarray) -> bytes:
    """A mean.binaryproto of a picture, (256, 256, 3), red first."""
    channels = image[..., ::-1].transpose(2, 0, 1)
    _, height, width = channels.shape
    data = np.ascontiguousarray(channels, "<f4").tobytes()
    return messages.BlobProto(num=1, channels=3, height=height, width=width, data=data).SerializeToString()


def digits_files(
    weights: Weights, folder: Path, *, info: dict[str, object] | None = None, mean: np.ndarray | None = None
) -> dict[str, bytes]:
    """The files of a model of DIGITS, by name; `folder` is for scratch."""
    write_caffe(folder / "scratch", weights, 2)
    told = {"framework": "caffe", "image dimensions": [256, 256, 3], "image resize mode": "squash"}
    picture = np.full((256, 256, 3), (124.0, 117.0, 104.0), np.float32) if mean is None else mean
    files = {
        "snapshot_iter_300.caffemodel": (folder / "scratch").read_bytes(),
        "deploy.prototxt": deploy_text(weights),
        "mean.binaryproto": mean_file(picture),
        "labels.txt": "\n".join(weights.labels).encode() + b"\n",
        "info.json": json.dumps(told | {"snapshot file": "snapshot_iter_300.caffemodel"} | (info or {})).encode(),
    }
    (folder / "scratch").unlink()
    return files


def write_tar(path: Path, files: dict[str, bytes], mode: Literal["w", "w:gz", "w:bz2"] = "w:gz") -> None:
    """Write files to an archive, as DIGITS does."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
