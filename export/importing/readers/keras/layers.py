"""Keras's layers as a source's, one by one, with the sizes that "same" padding needs.

Kernels are (H, W, I, O) and fully connected weights (in, out), in every version and data format.
Source: keras/src/layers of Keras 3.15 and 2.15, keras/layers of Keras 1.2.2.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from alexnet_deploy.export.importing.readers.keras.config import KerasLayer
from alexnet_deploy.export.importing.readers.keras.contents import KerasError
from alexnet_deploy.export.importing.readers.keras.numbers import number_of, one_of, pair_of, three_of, whole_of
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Padding,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    Unroll,
)

_NOTHING_AT_INFERENCE = frozenset(
    {
        "ActivityRegularization",
        "GaussianNoise",
        "RandomBrightness",
        "RandomContrast",
        "RandomFlip",
        "RandomRotation",
        "RandomTranslation",
        "RandomZoom",
    }
)
_LRN_FUNCTIONS = ("nn.local_response_normalization", "nn.lrn")
_NO_PADDING: Padding = (0, 0, 0, 0)

_DATA_FORMATS: Mapping[str, Literal["last", "first"]] = MappingProxyType(
    {"channels_last": "last", "tf": "last", "channels_first": "first", "th": "first"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A model's layers, and what its input says."""

    layers: tuple[SourceLayer, ...]
    input_size: int | None
    """Side of the square input in pixels."""
    scale: tuple[float, float, float] | None
    """Of a Rescaling layer; None where there is none."""
    mean: tuple[float, float, float] | None
    """That a Rescaling layer subtracts, on 0..255."""


@dataclass(slots=True, kw_only=True)
class _Walk:
    variables_of: Callable[[KerasLayer], Sequence[str]]
    """Names of a layer's arrays, in order."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of all arrays, by name."""
    layers: list[SourceLayer] = field(default_factory=list)
    side: int | None = None
    """Height and width of what the last layer gave; None where it is not known."""
    input_size: int | None = None
    order: Literal["last", "first"] | None = None
    """Where the channels stand; None before the first layer that says it."""
    zeros: Padding = _NO_PADDING
    """Of a ZeroPadding2D that no convolution has taken yet."""
    scale: tuple[float, float, float] | None = None
    mean: tuple[float, float, float] | None = None


def chain_of(
    layers: Sequence[KerasLayer],
    variables_of: Callable[[KerasLayer], Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
) -> Chain:
    """Return a model's layers; raises KerasError, which names the first that is not known."""
    walk = _Walk(variables_of=variables_of, shapes=shapes)
    for layer in layers:
        try:
            _note_input(walk, layer)
            if any(walk.zeros) and layer.kind not in ("Conv2D", "Convolution2D"):
                raise KerasError("follows ZeroPadding2D, which is known before a convolution alone")
            walk.layers.extend(_translated(walk, layer))
        except KerasError as error:
            raise KerasError(f"{layer.name}: {error}") from error
    return Chain(layers=tuple(walk.layers), input_size=walk.input_size, scale=walk.scale, mean=walk.mean)


def _note_input(walk: _Walk, layer: KerasLayer) -> None:
    """Take the size of the input from the first layer that says it."""
    shape = layer.get("batch_shape", "batch_input_shape")
    if walk.layers or walk.input_size is not None or not isinstance(shape, list):
        return
    order = _data_format(layer) or ("first" if len(shape) == 4 and shape[1] == 3 and shape[3] != 3 else "last")
    if len(shape) != 4:
        raise KerasError(f"takes an input of {len(shape)} dimensions; images of 3 channels are needed")
    _, first, second, third = shape
    height, width, channels = (second, third, first) if order == "first" else (first, second, third)
    if channels != 3 or height != width:
        raise KerasError(f"takes an input of {height} x {width} x {channels}; a square of 3 channels is needed")
    if height is not None:
        walk.input_size = walk.side = whole_of(height, "its input")
    walk.order = order


def _translated(walk: _Walk, layer: KerasLayer) -> Iterator[SourceLayer]:
    match layer.kind:
        case "InputLayer":
            return
        case "Rescaling":
            _rescale(walk, layer)
        case "Conv2D" | "Convolution2D":
            yield _convolution(walk, layer)
            yield from _activation(layer)
        case "Dense":
            weight, bias = _kernel_and_bias(walk, layer)
            yield Connect(name=layer.name, weight=weight, bias=bias, layout="IO")
            yield from _activation(layer)
        case "Activation":
            yield from _activation(layer)
        case "ReLU":
            if layer.get("max_value") is not None or layer.get("negative_slope") or layer.get("threshold"):
                raise KerasError("a ReLU with a limit, a slope or a threshold is not supported")
            yield Activate(name=layer.name, function="relu")
        case "Softmax":
            yield Softmax(name=layer.name)
        case "MaxPooling2D" | "AveragePooling2D":
            yield _pooling(walk, layer)
        case "GlobalAveragePooling2D":
            yield AdaptivePool(name=layer.name, size=1)
            yield Unroll(name=f"{layer.name} (flattens)", order="CHW")
        case "ZeroPadding2D":
            _pad(walk, layer)
        case "BatchNormalization":
            yield _batch_norm(walk, layer)
        case "Flatten":
            yield _flatten(walk, layer)
        case "Dropout":
            yield Drop(name=layer.name, probability=number_of(layer.get("rate", "p"), "its rate"))
        case "TFOpLambda" if layer.get("function") in _LRN_FUNCTIONS:
            yield _lrn(layer)
        case kind if kind not in _NOTHING_AT_INFERENCE:
            raise KerasError(f"a layer of type {kind[:60]} is not supported")


def _data_format(layer: KerasLayer) -> Literal["last", "first"] | None:
    said = layer.get("data_format", "dim_ordering")
    if said is None or said == "default":
        return None
    if said not in _DATA_FORMATS:
        raise KerasError(f"its data format is {str(said)[:40]!r}")
    return _DATA_FORMATS[str(said)]


def _check_order(walk: _Walk, layer: KerasLayer) -> None:
    """Raise KerasError where a layer has its channels elsewhere than those before it."""
    order = _data_format(layer) or walk.order or "last"
    if walk.order not in (None, order):
        raise KerasError("has its channels at another place than the layers before it")
    walk.order = order


def _convolution(walk: _Walk, layer: KerasLayer) -> Convolve:
    _check_order(walk, layer)
    if layer.kind == "Convolution2D" and walk.order == "first":
        raise KerasError(
            "is of Keras 1 with its channels first, whose kernels depend on the program that trained it; load it "
            "in Keras 2 and save it again"
        )
    if any(value != 1 for value in pair_of(layer.get("dilation_rate"), "its dilation", 1)):
        raise KerasError("a dilated convolution is not supported")
    weight, bias = _kernel_and_bias(walk, layer)
    shape = walk.shapes[weight]
    sides = layer.get("kernel_size")
    height, width = (
        (whole_of(layer.get("nb_row"), "its kernel"), whole_of(layer.get("nb_col"), "its kernel"))
        if sides is None
        else pair_of(sides, "its kernel", 1)
    )
    filters = whole_of(layer.get("filters", "nb_filter"), "its filters")
    if height != width or len(shape) != 4 or (shape[0], shape[1], shape[3]) != (height, width, filters):
        raise KerasError(f"has a kernel of shape {shape}, where {filters} square filters of {height} are needed")
    stride = one_of(layer.get("strides", "subsample"), "its stride", 1)
    padding = _padding(walk, layer, height, stride)
    walk.zeros = _NO_PADDING
    _shrink(walk, height, stride, padding)
    groups = layer.get("groups")
    return Convolve(
        name=layer.name,
        weight=weight,
        bias=bias,
        layout="HWIO",
        stride=stride,
        padding=padding,
        groups=1 if groups is None else whole_of(groups, "its groups"),
    )


def _padding(walk: _Walk, layer: KerasLayer, kernel: int, stride: int) -> Padding:
    """Return "valid" or "same" as pixels; of an odd number, Keras puts the smaller half first."""
    said = layer.get("padding", "border_mode")
    if said == "valid":
        return walk.zeros
    if said != "same" or any(walk.zeros):
        raise KerasError(f"its padding {str(said)[:40]!r} is not supported")
    if stride == 1:
        total = kernel - 1
    elif walk.side is None:
        raise KerasError("pads to the same size, which depends on the input's size, and the file does not say it")
    else:
        total = max((-(-walk.side // stride) - 1) * stride + kernel - walk.side, 0)
    before, after = total // 2, total - total // 2
    return before, before, after, after


def _shrink(walk: _Walk, kernel: int, stride: int, padding: Padding) -> None:
    if walk.side is not None:
        # Taller than wide after uneven padding: not square any more, and not known.
        top, left, bottom, right = padding
        is_square = top + bottom == left + right
        walk.side = (walk.side + top + bottom - kernel) // stride + 1 if is_square else None


def _kernel_and_bias(walk: _Walk, layer: KerasLayer) -> tuple[str, str | None]:
    found = list(walk.variables_of(layer))
    has_bias = layer.get("use_bias", "bias") is not False
    if len(found) != 1 + has_bias:
        raise KerasError(f"has {len(found)} arrays in the file, where {1 + has_bias} are needed")
    for name in found:
        if name not in walk.shapes:
            raise KerasError(f"the file has no array {name[:100]}")
    return found[0], found[1] if has_bias else None


def _activation(layer: KerasLayer) -> Iterator[SourceLayer]:
    match layer.get("activation"):
        case None | "linear":
            return
        case "relu":
            yield Activate(name=f"{layer.name} (relu)", function="relu")
        case "tanh":
            yield Activate(name=f"{layer.name} (tanh)", function="tanh")
        case "softmax":
            yield Softmax(name=f"{layer.name} (softmax)")
        case other:
            raise KerasError(f"its activation {str(other)[:60]!r} is not supported")


def _pooling(walk: _Walk, layer: KerasLayer) -> Pool:
    _check_order(walk, layer)
    kernel = one_of(layer.get("pool_size"), "its window", 2)
    stride = one_of(layer.get("strides"), "its stride", kernel)
    padding = _padding(walk, layer, kernel, stride)
    _shrink(walk, kernel, stride, padding)
    function: Literal["max", "average"] = "max" if layer.kind == "MaxPooling2D" else "average"
    return Pool(name=layer.name, function=function, kernel=kernel, stride=stride, padding=padding)


def _pad(walk: _Walk, layer: KerasLayer) -> None:
    _check_order(walk, layer)
    said = layer.get("padding")
    sides = said if isinstance(said, list) and len(said) == 2 else [said, said]
    (top, bottom), (left, right) = (pair_of(side, "its padding", 0, least=0) for side in sides)
    walk.zeros = (top, left, bottom, right)


def _batch_norm(walk: _Walk, layer: KerasLayer) -> Scale:
    axis = layer.get("axis")
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    is_flat = any(isinstance(before, Unroll | Connect) for before in walk.layers)
    channels = (-1, 1) if is_flat else (1,) if walk.order == "first" else (-1, 3)
    if layer.get("mode") not in (None, 0) or axis not in channels:
        raise KerasError("normalises along another axis than the channels")
    found = list(walk.variables_of(layer))
    has_scale, has_shift = layer.get("scale") is not False, layer.get("center") is not False
    if len(found) != 2 + has_scale + has_shift:
        raise KerasError(f"has {len(found)} arrays in the file, where {2 + has_scale + has_shift} are needed")
    mean, variance = found[-2:]
    return Scale(
        name=layer.name,
        mean=mean,
        variance=variance,
        scale=found[0] if has_scale else None,
        shift=found[int(has_scale)] if has_shift else None,
        epsilon=number_of(layer.get("epsilon"), "its epsilon"),
    )


def _flatten(walk: _Walk, layer: KerasLayer) -> Unroll:
    """Return the order of the row: Keras moves channels to the end first, where it is told that they come first."""
    said = _data_format(layer)
    if said == "first" and walk.order == "last":
        raise KerasError("has its channels at another place than the layers before it")
    is_channels_first = walk.order == "first" and said != "first"
    return Unroll(name=layer.name, order="CHW" if is_channels_first else "HWC")


def _rescale(walk: _Walk, layer: KerasLayer) -> None:
    if walk.layers or walk.scale is not None:
        raise KerasError("a Rescaling that is not the first layer is not supported")
    scale, offset = three_of(layer.get("scale"), "its scale"), three_of(layer.get("offset"), "its offset")
    if not all(scale):
        raise KerasError("its scale is 0")
    walk.scale = scale
    red, green, blue = (-shift / factor if shift else 0.0 for shift, factor in zip(offset, scale, strict=True))
    walk.mean = (red, green, blue)


def _lrn(layer: KerasLayer) -> Normalise:
    """Return TensorFlow's LRN, whose alpha is not divided; its defaults are those of tf.nn."""
    radius = whole_of(layer.call.get("depth_radius", 5), "its radius")
    values = (layer.call.get(name, usual) for name, usual in (("bias", 1), ("alpha", 1), ("beta", 0.5)))
    k, alpha, beta = (number_of(value, "a constant") for value in values)
    return Normalise(name=layer.name, size=2 * radius + 1, alpha=alpha, alpha_is_divided=False, beta=beta, k=k)
