"""Convert Caffe's layers, V1 or V2, to the layers of a source: a chain from the image to the class scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.source import (
    Activate,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    Unroll,
)

_V1_TYPES = MappingProxyType(
    {
        1: "Accuracy",
        4: "Convolution",
        5: "Data",
        6: "Dropout",
        8: "Flatten",
        9: "HDF5Data",
        12: "ImageData",
        14: "InnerProduct",
        15: "LRN",
        17: "Pooling",
        18: "ReLU",
        20: "Softmax",
        21: "SoftmaxWithLoss",
        22: "Split",
        23: "TanH",
        24: "WindowData",
        29: "MemoryData",
        32: "DummyData",
        36: "Silence",
    }
)
"""Source: BVLC/caffe, V1LayerParameter.LayerType."""

AnyLayer: TypeAlias = messages.LayerParameter | messages.V1LayerParameter

_FEEDS = {"Data", "HDF5Data", "ImageData", "WindowData", "MemoryData", "DummyData", "Input", "Python"}
_MEASURES = {"Accuracy", "SoftmaxWithLoss", "Silence"}
_OUTSIDE = _FEEDS | _MEASURES
"""Layers of training and testing, which inference does not run."""


class ChainError(Exception):
    """What is wrong with a model; the message needs the file's name in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaffeLayer:
    """One layer of either version."""

    name: str
    type: str
    """Its type, by V2's name."""
    message: AnyLayer
    """The parsed message."""

    @classmethod
    def of(cls, message: AnyLayer) -> "CaffeLayer":
        """Return a layer; raises ChainError for one older than V1."""
        if isinstance(message, messages.LayerParameter):
            return cls(name=message.name, type=message.type, message=message)
        if message.HasField("v0_layer"):
            raise ChainError(
                "has layers from before Caffe's V1 (2013), which are not read; convert it with Caffe's own "
                "upgrade_net_proto_binary"
            )
        return cls(name=message.name, type=_V1_TYPES.get(message.type, f"V1 type {message.type}"), message=message)

    def has(self, field: str) -> bool:
        """Return whether it has this message field."""
        return field in self.message.DESCRIPTOR.fields_by_name and bool(self.message.HasField(field))


def input_size_of(header: messages.NetHeader | messages.NetText, layers: Sequence[CaffeLayer]) -> int | None:
    """Return the side of the square input, in pixels, if the model says it; raises ChainError for another shape."""
    shapes = [list(header.input_dim)] if header.input_dim else [list(shape.dim) for shape in header.input_shape]
    for layer in layers:
        if isinstance(layer.message, messages.LayerParameter) and layer.has("input_param"):
            shapes += [list(shape.dim) for shape in layer.message.input_param.shape]
        elif layer.has("transform_param") and (size := layer.message.transform_param.crop_size):
            shapes.append([1, 3, size, size])
    for shape in shapes:
        if len(shape) == 4:
            if shape[1] != 3 or shape[2] != shape[3] or shape[2] < 1:
                raise ChainError(f"takes an input of shape {tuple(shape[1:])}; expected a square of 3 channels")
            return int(shape[2])
    return None


def chain_of(layers: Sequence[CaffeLayer], tensors: Mapping[str, np.ndarray]) -> tuple[SourceLayer, ...]:
    """Return the layers from the image to the class scores, in order of execution.

    Raises ChainError, naming the layer, for a network that branches or a layer that is not supported.
    """
    found: list[SourceLayer] = []
    blob: str | None = None
    aliases: dict[str, str] = {}
    for layer in layers:
        if layer.type in _OUTSIDE and not _changes_chain(layer, blob):
            continue
        bottoms = [aliases.get(name, name) for name in layer.message.bottom]
        if layer.type == "Split":
            aliases.update(dict.fromkeys(layer.message.top, bottoms[0] if bottoms else ""))
            continue
        if len(bottoms) != 1 or len(layer.message.top) != 1 or (blob is not None and bottoms[0] != blob):
            raise ChainError(
                f"{layer.name}: reads {', '.join(bottoms) or 'nothing'}, but the layer before it writes "
                f"{blob or 'the image'}; only a chain of layers can be imported"
            )
        blob = layer.message.top[0]
        found += _translated(layer, tensors)
    return tuple(found)


def _changes_chain(layer: CaffeLayer, blob: str | None) -> bool:
    """Return whether a layer writes the image of the first layer, or `blob`, the output of the last one, again."""
    written = layer.message.top
    return bool(layer.message.bottom and written) if blob is None else blob in written


def check_fit(layers: Sequence[CaffeLayer], tensors: Mapping[str, np.ndarray], subject: str) -> None:
    """Raise ChainError, which names the layer, where a model's weights are not what its description says.

    `subject` is the description: the model's own list of layers, or a text.
    """
    for layer in layers:
        if layer.type not in ("Convolution", "InnerProduct"):
            continue
        weight, message = tensors.get(f"{layer.name}.0"), layer.message
        if weight is None:
            raise ChainError(f"{layer.name}: is in {subject}, but the model has no weights for it")
        if layer.type == "Convolution":
            given = message.convolution_param
            kernels = {given.kernel_h, given.kernel_w} if given.HasField("kernel_h") else set(given.kernel_size)
            fits, has_bias = weight.ndim == 4 and set(weight.shape[2:]) == kernels, given.bias_term
            num_outputs = given.num_output
        else:
            fits, has_bias = True, message.inner_product_param.bias_term
            num_outputs = message.inner_product_param.num_output
        if not fits or weight.shape[0] != num_outputs:
            raise ChainError(
                f"{layer.name}: has weights of shape {weight.shape}, which is not what {subject} says of it"
            )
        if has_bias and _bias(layer.name, tensors) is None:
            raise ChainError(f"{layer.name}: has biases in {subject}, but none in the model")


def _translated(layer: CaffeLayer, tensors: Mapping[str, np.ndarray]) -> Iterator[SourceLayer]:
    name, message = layer.name, layer.message
    match layer.type:
        case "Convolution":
            yield _convolution(layer, tensors)
        case "InnerProduct":
            given = message.inner_product_param
            if given.axis != 1 or given.transpose:
                raise ChainError(f"{name}: inner products over another axis, or transposed, are not supported")
            yield Unroll(name=f"{name} (flattens)", order="CHW")
            yield Connect(name=name, weight=f"{name}.0", bias=_bias(name, tensors), layout="OI")
        case "ReLU":
            if layer.has("relu_param") and message.relu_param.negative_slope:
                raise ChainError(f"{name}: a ReLU with a negative slope is not supported")
            yield Activate(name=name, function="relu")
        case "TanH":
            yield Activate(name=name, function="tanh")
        case "LRN":
            given = message.lrn_param
            if given.norm_region != messages.LRNParameter.ACROSS_CHANNELS:
                raise ChainError(f"{name}: normalisation within a channel is not supported")
            yield Normalise(
                name=name, size=given.local_size, alpha=given.alpha, alpha_is_divided=True, beta=given.beta, k=given.k
            )
        case "Pooling":
            yield _pooling(layer)
        case "Dropout":
            yield Drop(name=name, probability=message.dropout_param.dropout_ratio)
        case "Flatten":
            yield Unroll(name=name, order="CHW")
        case "BatchNorm" if isinstance(message, messages.LayerParameter):
            epsilon = message.batch_norm_param.eps
            blobs = [f"{name}.{number}" for number in range(3)]
            yield Scale(
                name=name, mean=blobs[0], variance=blobs[1], scale=None, shift=None, epsilon=epsilon, factor=blobs[2]
            )
        case "Scale" if isinstance(message, messages.LayerParameter):
            if message.scale_param.axis != 1:
                raise ChainError(f"{name}: a scale over another axis than the channels' is not supported")
            yield Scale(name=name, mean=None, variance=None, scale=f"{name}.0", shift=_bias(name, tensors), epsilon=0.0)
        case "Softmax":
            yield Softmax(name=name)
        case other:
            raise ChainError(f"{name}: a layer of type {other} is not supported")


def _bias(name: str, tensors: Mapping[str, np.ndarray]) -> str | None:
    return f"{name}.1" if f"{name}.1" in tensors else None


def _convolution(layer: CaffeLayer, tensors: Mapping[str, np.ndarray]) -> Convolve:
    given, name = layer.message.convolution_param, layer.name
    if any(value != 1 for value in given.dilation):
        raise ChainError(f"{name}: a dilated convolution is not supported")
    strides = {*given.stride} | ({given.stride_h, given.stride_w} if given.HasField("stride_h") else set()) or {1}
    if len(strides) != 1:
        raise ChainError(f"{name}: different strides along height and width are not supported")
    down, across = (
        (given.pad_h, given.pad_w)
        if given.HasField("pad_h") or given.HasField("pad_w")
        else (
            _along(given.pad, 0),
            _along(given.pad, 1),
        )
    )
    return Convolve(
        name=name,
        weight=f"{name}.0",
        bias=_bias(name, tensors),
        layout="OIHW",
        stride=strides.pop(),
        padding=(down, across, down, across),
        groups=given.group,
    )


def _along(values: Sequence[int], axis: int) -> int:
    """Return one axis of a field that has none, one or two values."""
    return 0 if not values else values[min(axis, len(values) - 1)]


def _pooling(layer: CaffeLayer) -> Pool:
    given, name = layer.message.pooling_param, layer.name
    if given.global_pooling or given.pool == messages.PoolingParameter.STOCHASTIC:
        raise ChainError(f"{name}: global and stochastic pooling are not supported")
    kernels = {given.kernel_h, given.kernel_w} if given.HasField("kernel_h") else {given.kernel_size}
    strides = {given.stride_h, given.stride_w} if given.HasField("stride_h") else {given.stride}
    if len(kernels) != 1 or len(strides) != 1:
        raise ChainError(f"{name}: different sizes along height and width are not supported")
    down, across = (
        (given.pad_h, given.pad_w) if given.HasField("pad_h") or given.HasField("pad_w") else (given.pad,) * 2
    )
    return Pool(
        name=name,
        function="max" if given.pool == messages.PoolingParameter.MAX else "average",
        kernel=kernels.pop(),
        stride=strides.pop(),
        padding=(down, across, down, across),
        round_up=given.round_mode == messages.PoolingParameter.CEIL,
        counts_padding=True,
    )
