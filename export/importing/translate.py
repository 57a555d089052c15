"""Translate a source's layers to ours, one by one, up to the first that our tables cannot express.

C channels, H height, W width, O outputs of a layer, I its inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    AveragePool,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    Tanh,
    adaptive_window,
)
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Scale,
    Softmax,
    Source,
    SourceLayer,
    SpatialNormalise,
    Unroll,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Translated:
    """Our layers and tensors."""

    input_size: int
    layers: tuple[Layer, ...]
    tensors: dict[str, np.ndarray]
    """float32, by the names of the layers, in order; views of the source's tensors where possible."""


class _NoFitError(Exception):
    """A layer does not fit; the message needs the layer's name in front."""


@dataclass(slots=True)
class _Walk:
    """State of the walk over the source's layers."""

    source: Mapping[str, np.ndarray]
    """The source's tensors."""
    shape: tuple[int, ...]
    """Output shape of the last layer: (C, H, W) or (features,)."""
    layers: list[Layer] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    unrolled: tuple[int, ...] | None = None
    """(C, H, W) of a tensor unrolled in H, W, C order that no layer has used yet; None if there is none."""
    has_ended: bool = False
    """Whether softmax was reached."""

    def count(self, *kinds: type[Layer]) -> int:
        """Return how many layers of these kinds there are so far."""
        return sum(isinstance(layer, kinds) for layer in self.layers)

    def name(self, kind: str) -> str:
        """Return a unique name for a layer of this kind, numbered like the last layer with tensors."""
        name = f"{kind}{self.count(Conv, Linear)}"
        return name if all(layer.name != name for layer in self.layers) else f"{name}_{len(self.layers)}"


def translate(source: Source, input_size: int) -> Translated:
    """Return a source's layers and tensors as ours, for a square input of this size in pixels.

    Raises WeightsError, which names the first layer that does not fit.
    """
    assert source.layers is not None, "they are filled in first"
    walk = _Walk(source=source.tensors, shape=(3, input_size, input_size))
    for layer in source.layers:
        try:
            if walk.has_ended:
                raise _NoFitError("follows the softmax, which must be the last")
            _step(walk, layer)
        except (_NoFitError, ValueError) as error:
            raise WeightsError(f"{source.path}: {layer.name}: {error}") from error
    if not walk.layers or not isinstance(walk.layers[-1], Linear):
        raise WeightsError(f"{source.path}: its last layer is not fully connected, so it gives no class scores")
    return Translated(input_size=input_size, layers=tuple(walk.layers), tensors=walk.tensors)


def _step(walk: _Walk, layer: SourceLayer) -> None:
    match layer:
        case Convolve():
            _convolve(walk, layer)
        case Connect():
            weight = _tensor(walk, layer.weight, 2)
            _connect(walk, weight if layer.layout == "OI" else weight.T, layer.bias)
        case Activate(function="relu"):
            walk.layers.append(Relu(name=walk.name("relu")))
        case Normalise() | SpatialNormalise():
            _normalise(walk, layer)
        case Scale():
            _fold(walk, layer)
        case Pool():
            _pool(walk, layer)
        case AdaptivePool():
            _adapt(walk, layer)
        case Unroll():
            _unroll(walk, layer)
        case Drop():
            number = walk.count(Conv) + walk.count(Dropout) + 1
            walk.layers.append(Dropout(name=f"drop{number}", probability=_shortest(layer.probability)))
        case Softmax():
            walk.has_ended = True
        case Activate():
            walk.layers.append(Tanh(name=walk.name("tanh")))


def _normalise(walk: _Walk, layer: Normalise | SpatialNormalise) -> None:
    _needs_planes(walk)
    beta, k = _shortest(layer.beta), _shortest(layer.k)
    if isinstance(layer, SpatialNormalise):
        alpha = _shortest(layer.alpha)
        walk.layers.append(SpatialNorm(name=walk.name("spatial_norm"), size=layer.size, alpha=alpha, beta=beta, k=k))
        return
    alpha = _shortest(layer.alpha if layer.alpha_is_divided else layer.alpha * layer.size)
    name = walk.name("norm")
    walk.layers.append(LocalNorm(name=name, size=layer.size, alpha=alpha, beta=beta, k=k, groups=layer.groups))


def _tensor(walk: _Walk, name: str, num_dimensions: int) -> np.ndarray:
    tensor = walk.source.get(name)
    if tensor is None:
        raise _NoFitError(f"there is no tensor {name}")
    if tensor.ndim != num_dimensions:
        raise _NoFitError(f"{name} is of shape {tensor.shape}, expected {num_dimensions} dimensions")
    # For a broadcast constant, its stored values only.
    held = tensor[tuple(slice(None) if stride else slice(1) for stride in tensor.strides)]
    if not np.isfinite(held).all():
        raise _NoFitError(f"{name} holds NaN or infinite values")
    return tensor


def _add(walk: _Walk, layer: Conv | Linear, weight: np.ndarray, bias: str | None) -> None:
    values = np.zeros(len(weight), np.float32) if bias is None else _tensor(walk, bias, 1)
    if len(values) != len(weight):
        raise _NoFitError(f"{bias} has {len(values):,} values for {len(weight):,} outputs")
    walk.layers.append(layer)
    walk.tensors[f"{layer.name}.weight"] = weight
    walk.tensors[f"{layer.name}.bias"] = values


def _convolve(walk: _Walk, layer: Convolve) -> None:
    weight = _tensor(walk, layer.weight, 4)
    weight_OIHW = weight if layer.layout == "OIHW" else weight.transpose(3, 2, 0, 1)
    _, channels, kernel, across = weight_OIHW.shape
    if kernel != across:
        raise _NoFitError(f"a kernel of {kernel} x {across}, expected a square one")
    sees_all = walk.shape[1:] in ((), (kernel, kernel)) and (len(walk.shape) == 3 or kernel == 1)
    if sees_all and not any(layer.padding):
        # A convolution that sees all of its input is a fully connected layer.
        if layer.groups != 1:
            raise _NoFitError("a fully connected layer in groups is not in our tables")
        if len(walk.shape) == 3:
            _unroll(walk, Unroll(name=layer.name, order="CHW"))
        _connect(walk, weight_OIHW.reshape(len(weight_OIHW), -1), layer.bias)
        return
    _needs_planes(walk)
    if channels * layer.groups != walk.shape[0]:
        raise _NoFitError(f"expects {channels * layer.groups:,} channels, but gets {walk.shape[0]:,}")
    conv = Conv(
        name=f"conv{walk.count(Conv, Linear) + 1}",
        out_channels=len(weight_OIHW),
        kernel=kernel,
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
    )
    top, left, bottom, right = layer.padding
    margins = (top + bottom, left + right)
    sides = [(size + more - kernel) // layer.stride + 1 for size, more in zip(walk.shape[1:], margins, strict=True)]
    if min(sides) < 1:
        raise _NoFitError(f"a kernel of {kernel} is larger than its input of {walk.shape[1]} x {walk.shape[2]}")
    _add(walk, conv, weight_OIHW, layer.bias)
    walk.shape = (len(weight_OIHW), *sides)


def _connect(walk: _Walk, weight_OI: np.ndarray, bias: str | None) -> None:
    if len(walk.shape) == 3:
        if walk.shape[1:] != (1, 1):
            raise _NoFitError("is fully connected, but its input is not flattened")
        _unroll(walk, Unroll(name="flatten", order="CHW"))
    if weight_OI.shape[1] != walk.shape[0]:
        hint = "; transposed, its weights would fit" if len(weight_OI) == walk.shape[0] else ""
        raise _NoFitError(f"expects {weight_OI.shape[1]:,} values, but gets {walk.shape[0]:,}{hint}")
    if walk.unrolled is not None:
        channels, height, width = walk.unrolled
        weight_OHWC = weight_OI.reshape(len(weight_OI), height, width, channels)
        weight_OI = weight_OHWC.transpose(0, 3, 1, 2).reshape(weight_OI.shape)
        walk.unrolled = None
    linear = Linear(name=f"fc{walk.count(Conv, Linear) + 1}", out_features=len(weight_OI))
    _add(walk, linear, weight_OI, bias)
    walk.shape = (len(weight_OI),)


def _fold(walk: _Walk, layer: Scale) -> None:
    """Fold a batch normalisation into the layer just before it, in float64."""
    last = walk.layers[-1] if walk.layers else None
    if not isinstance(last, Conv | Linear):
        raise _NoFitError("a batch normalisation that does not follow a layer with weights is not in our tables")
    weight, bias = walk.tensors[f"{last.name}.weight"], walk.tensors[f"{last.name}.bias"]
    mean, variance = (
        np.full(bias.shape, neutral) if name is None else _tensor(walk, name, 1).astype(np.float64)
        for name, neutral in ((layer.mean, 0.0), (layer.variance, 1.0 - layer.epsilon))
    )
    if layer.factor is not None:
        divisor = float(_tensor(walk, layer.factor, 1)[0])
        # As in Caffe: statistics without samples are 0.
        mean, variance = (values / divisor if divisor else values * 0 for values in (mean, variance))
    factor = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale is not None:
        factor = factor * _tensor(walk, layer.scale, 1)
    shift = np.float64(0) if layer.shift is None else _tensor(walk, layer.shift, 1)
    if factor.shape != bias.shape or mean.shape != bias.shape:
        raise _NoFitError(f"normalises {len(factor):,} channels of {len(bias):,}")
    columns = factor.reshape(-1, *[1] * (weight.ndim - 1))
    walk.tensors[f"{last.name}.weight"] = (weight * columns).astype(np.float32)
    walk.tensors[f"{last.name}.bias"] = ((bias - mean) * factor + shift).astype(np.float32)


def _pool(walk: _Walk, layer: Pool) -> None:
    _needs_planes(walk)
    if layer.kernel == layer.stride == 1 and not any(layer.padding):
        return
    top, left, bottom, right = layer.padding
    (rows, below), (columns, beside) = (
        _windows(layer, size, before, after)
        for size, before, after in zip(walk.shape[1:], (top, left), (bottom, right), strict=True)
    )
    if min(rows, columns) < 1 or min(below, beside) < 0:
        raise _NoFitError(
            f"windows of {layer.kernel}, {layer.stride} apart, do not tile {walk.shape[1]} x {walk.shape[2]} "
            "exactly, as our tables need"
        )
    padding, name = (top, left, below, beside), walk.name("pool")
    if layer.function == "max":
        walk.layers.append(MaxPool(name=name, kernel=layer.kernel, stride=layer.stride, padding=padding))
    else:
        counts = layer.counts_padding and any(layer.padding)
        if counts and (below > bottom or beside > right):
            raise _NoFitError("averages that count their padding and reach beyond it are not in our tables")
        pool = AveragePool(
            name=name, kernel=layer.kernel, stride=layer.stride, padding=padding, counts_padding=counts and any(padding)
        )
        walk.layers.append(pool)
    walk.shape = (walk.shape[0], rows, columns)


def _windows(layer: Pool, size: int, before: int, after: int) -> tuple[int, int]:
    """Return the number of windows along one axis, and the pixels that the last one needs behind the input.

    Fewer than `after` where no window reaches all padding, more where the number is rounded up.
    """
    room = size + before + after - layer.kernel
    count = (-(-room // layer.stride) if layer.round_up else room // layer.stride) + 1
    # Caffe and torch drop a last window that would begin behind the input.
    if layer.round_up and (count - 1) * layer.stride >= size + before:
        count -= 1
    return count, (count - 1) * layer.stride + layer.kernel - size - before


def _adapt(walk: _Walk, layer: AdaptivePool) -> None:
    _needs_planes(walk)
    if walk.shape[1:] == (layer.size, layer.size):
        return
    pool = AdaptiveAveragePool(name=walk.name("pool"), size=layer.size)
    adaptive_window(pool, walk.shape)
    walk.layers.append(pool)
    walk.shape = (walk.shape[0], layer.size, layer.size)


def _unroll(walk: _Walk, layer: Unroll) -> None:
    if len(walk.shape) == 1:
        return
    walk.layers.append(Flatten(name="flatten"))
    walk.unrolled = walk.shape if layer.order == "HWC" else None
    walk.shape = (int(np.prod(walk.shape)),)


def _needs_planes(walk: _Walk) -> None:
    if len(walk.shape) != 3:
        raise _NoFitError(f"expects channels, height and width, but gets a row of {walk.shape[0]:,} values")


def _shortest(value: float) -> float:
    """Return the shortest decimal that is the same float32: files keep 1e-4 as 9.999999747e-05."""
    return float(str(np.float32(value)))
