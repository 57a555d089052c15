"""The AlexNet family as tables of layers, with their shapes and costs.

A table is data. The torch network (core/model/network.py) and the ONNX graph (export/graph.py) are built from it
independently, so that each verifies the other.

Local response normalisation follows the convention of PyTorch, ONNX, Caffe and TensorRT, in which alpha is divided
by the window:

    b[c] = a[c] / (k + alpha / size * sum of a[j]^2 over the `size` channels around c) ** beta

The paper does not divide, so its alpha of 1e-4 over n = 5 is 5e-4 here. TensorFlow does not divide either.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE

# Names are used in file names, in graph nodes and on terminals.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


# 2 GiB in float32: the limit of one ONNX file.
_MOST_PARAMETERS = 1 << 29

# Output values of one layer for one view: 200 times those of the paper's first layer.
_MOST_VALUES = 1 << 26


class Conv(Struct, frozen=True, kw_only=True, tag="conv", forbid_unknown_fields=True):
    """A convolution over (C, H, W).

    `padding` is (top, left, bottom, right) in pixels of zeros; `groups` splits the channels into independent groups
    (the paper's columns).
    """

    name: str
    out_channels: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    def __post_init__(self) -> None:
        if min(self.out_channels, self.kernel, self.stride, self.groups) < 1 or min(self.padding) < 0:
            raise ValueError(f"{self.name}: channels, kernel, stride and groups must be 1 or more, padding 0 or more")


class Relu(Struct, frozen=True, kw_only=True, tag="relu", forbid_unknown_fields=True):
    """max(x, 0)."""

    name: str


class Tanh(Struct, frozen=True, kw_only=True, tag="tanh", forbid_unknown_fields=True):
    """The hyperbolic tangent of x."""

    name: str


class LocalNorm(Struct, frozen=True, kw_only=True, tag="lrn", forbid_unknown_fields=True):
    """Local response normalisation across channels; see the formula at the top of this file.

    With `groups` 2 the window stays within each half of the channels.
    """

    name: str
    size: int
    alpha: float
    beta: float
    k: float
    groups: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"{self.name}: groups must be 1 or more, got {self.groups}")
        # Even windows pad opposite sides in PyTorch and ONNX (pytorch#75722); TensorRT takes 1 to 15.
        if self.size % 2 == 0 or not 1 <= self.size <= 15:
            raise ValueError(f"{self.name}: size must be odd and 1 to 15, got {self.size}")
        _check_norm(self)


class SpatialNorm(Struct, frozen=True, kw_only=True, tag="spatial_norm", forbid_unknown_fields=True):
    """Response normalisation over a size x size neighbourhood within each channel.

    b = a * (k + alpha * mean of a^2 over the window, zeros outside) ** -beta
    """

    name: str
    size: int
    alpha: float
    beta: float
    k: float

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self.name}: size must be 1 or more, got {self.size}")
        _check_norm(self)


class MaxPool(Struct, frozen=True, kw_only=True, tag="max_pool", forbid_unknown_fields=True):
    """Maximum over kernel x kernel windows, `stride` pixels apart.

    `padding` is (top, left, bottom, right) in pixels that never are the maximum. Caffe rounds the number of windows up:
    there that is padding at the bottom and on the right. It is absent, not zero, in a table without padding, so that
    such a table has one text only.
    """

    name: str
    kernel: int = 3
    stride: int = 2
    padding: tuple[int, int, int, int] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _check_pool(self)

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Padding at the top, left, bottom and right, in pixels; 0 where there is none."""
        return (0, 0, 0, 0) if isinstance(self.padding, UnsetType) else self.padding


class AveragePool(
    Struct, frozen=True, kw_only=True, tag="average_pool", forbid_unknown_fields=True, omit_defaults=True
):
    """Mean over kernel x kernel windows, `stride` pixels apart.

    `padding` is (top, left, bottom, right) in pixels of zeros. With `counts_padding` these zeros count as values of the
    mean, as in torch; without it the mean is over the input's own pixels, as where Caffe rounds the number of windows
    up. Both are absent from the text of a table without padding.
    """

    name: str
    kernel: int
    stride: int
    padding: tuple[int, int, int, int] | UnsetType = UNSET
    counts_padding: bool = False

    def __post_init__(self) -> None:
        _check_pool(self)
        if self.counts_padding and not any(self.margins):
            raise ValueError(f"{self.name}: counts_padding needs padding")

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Padding at the top, left, bottom and right, in pixels; 0 where there is none."""
        return (0, 0, 0, 0) if isinstance(self.padding, UnsetType) else self.padding


class AdaptiveAveragePool(Struct, frozen=True, kw_only=True, tag="adaptive_average_pool", forbid_unknown_fields=True):
    """Mean over size x size windows of equal size and distance, as torch.nn.AdaptiveAvgPool2d; see adaptive_window."""

    name: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self.name}: size must be 1 or more, got {self.size}")


class Flatten(Struct, frozen=True, kw_only=True, tag="flatten", forbid_unknown_fields=True):
    """Reshape (C, H, W) to one row, channel first."""

    name: str


class Dropout(Struct, frozen=True, kw_only=True, tag="dropout", forbid_unknown_fields=True):
    """Set each value to zero with this probability in training; do nothing in inference."""

    name: str
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability < 1.0:
            raise ValueError(f"{self.name}: probability must be 0 or more and under 1, got {self.probability:g}")


class Linear(Struct, frozen=True, kw_only=True, tag="linear", forbid_unknown_fields=True):
    """A fully connected layer."""

    name: str
    out_features: int


def _check_pool(pool: MaxPool | AveragePool) -> None:
    """Raise ValueError for no window, or one that may be padding alone; padding of 0 becomes absent."""
    if min(pool.kernel, pool.stride) < 1:
        raise ValueError(f"{pool.name}: kernel and stride must be 1 or more")
    if not all(0 <= pixels < pool.kernel for pixels in pool.margins):
        raise ValueError(f"{pool.name}: padding must be 0 or more and less than the kernel, {pool.kernel}")
    if not any(pool.margins):
        msgspec.structs.force_setattr(pool, "padding", UNSET)


def _check_norm(norm: LocalNorm | SpatialNorm) -> None:
    """Raise ValueError for constants that make a normalisation divide by zero or return NaN or infinity."""
    for field, value, is_valid in (
        ("alpha", norm.alpha, 0.0 <= norm.alpha < math.inf),
        ("beta", norm.beta, 0.0 <= norm.beta < math.inf),
        ("k", norm.k, 0.0 < norm.k < math.inf),
    ):
        if not is_valid:
            needed = "greater than 0" if field == "k" else "0 or more"
            raise ValueError(f"{norm.name}: {field} must be finite and {needed}, got {value:g}")


Layer: TypeAlias = (
    Conv
    | Relu
    | Tanh
    | LocalNorm
    | SpatialNorm
    | MaxPool
    | AveragePool
    | AdaptiveAveragePool
    | Flatten
    | Dropout
    | Linear
)


def adaptive_window(layer: AdaptiveAveragePool, in_shape: tuple[int, ...]) -> AveragePool:
    """Return the average pool that does what an adaptive one does for this input (C, H, W).

    Raises ValueError if the windows, from floor(i * H / size) to ceil((i + 1) * H / size), differ in size or distance.
    """
    _, height, width = in_shape
    size = layer.size
    starts = [index * height // size for index in range(size)]
    kernels = {-(-(index + 1) * height // size) - start for index, start in enumerate(starts)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    if height != width or len(kernels) > 1 or len(strides) > 1 or 0 in strides:
        raise ValueError(f"{layer.name}: {height} x {width} pixels do not split into {size} x {size} equal windows")
    return AveragePool(name=layer.name, kernel=kernels.pop(), stride=strides.pop())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer with its input and output shapes and its cost, for one view."""

    layer: Layer
    """The row of the table."""
    in_shape: tuple[int, ...]
    """(C, H, W) or (features,)."""
    out_shape: tuple[int, ...]
    """(C, H, W) or (features,)."""
    weight_shape: tuple[int, ...] | None
    """Shape of the weight tensor; None if the layer has none. The bias has its first dimension."""
    num_multiply_adds: int
    """Multiply-adds of convolutions and fully connected layers; the bias is not counted."""

    @property
    def num_parameters(self) -> int:
        """Weights and biases of this layer."""
        return 0 if self.weight_shape is None else math.prod(self.weight_shape) + self.weight_shape[0]


class Architecture(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One member of the AlexNet family.

    `input_size` is the side in pixels of the square RGB view that the first layer takes.
    """

    name: str
    input_size: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        for name in (self.name, *names):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a valid name for an architecture or a layer; use 1 to 64 letters, digits and "
                    "_ . -, starting with a letter or digit"
                )
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: two layers share a name")
        if not self.layers or not isinstance(self.layers[-1], Linear):
            raise ValueError(f"{self.name}: the last layer must be linear: its outputs are the class scores")
        if not 1 <= self.input_size <= IMAGE_SIZE:
            raise ValueError(f"{self.name}: input_size must be 1 to {IMAGE_SIZE}, got {self.input_size}")
        num_parameters = 0
        for cost in self.costs():
            num_parameters += cost.num_parameters
            if math.prod(cost.out_shape) > _MOST_VALUES:
                raise ValueError(f"{cost.layer.name}: the output has more than {_MOST_VALUES:,} values")
            if num_parameters > _MOST_PARAMETERS:
                raise ValueError(f"{self.name}: has more than {_MOST_PARAMETERS:,} parameters")

    @property
    def num_classes(self) -> int:
        """K, the number of classes: the outputs of the last layer."""
        last = self.layers[-1]
        assert isinstance(last, Linear)
        return last.out_features

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum(cost.num_parameters for cost in self.costs())

    @property
    def num_multiply_adds(self) -> int:
        """Multiply-adds for one view."""
        return sum(cost.num_multiply_adds for cost in self.costs())

    def with_num_classes(self, num_classes: int) -> "Architecture":
        """Return the same table with a last layer for `num_classes` classes, 2 or more."""
        if num_classes < 2:
            raise UsageError(f"{self.name}: num_classes must be 2 or more, got {num_classes}")
        last = msgspec.structs.replace(self.layers[-1], out_features=num_classes)
        return msgspec.structs.replace(self, layers=(*self.layers[:-1], last))

    def costs(self, until: str | None = None) -> Iterator[LayerCost]:
        """Yield each layer of the table with its shapes and costs, the layer `until` last; None for all.

        Raises ValueError if a layer does not fit the output of the previous one.
        """
        shape: tuple[int, ...] = (3, self.input_size, self.input_size)
        for layer in self.layers:
            cost = cost_of(layer, shape)
            yield cost
            if layer.name == until:
                return
            shape = cost.out_shape

    def tensor_shapes(self, until: str | None = None) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every trained tensor, in table order: conv1.weight, ...; `until` as in costs."""
        shapes: dict[str, tuple[int, ...]] = {}
        for cost in self.costs(until):
            if cost.weight_shape is not None:
                shapes[f"{cost.layer.name}.weight"] = cost.weight_shape
                shapes[f"{cost.layer.name}.bias"] = cost.weight_shape[:1]
        return shapes


def cost_of(layer: Layer, in_shape: tuple[int, ...]) -> LayerCost:
    """Return a layer with its shapes and cost for an input of this shape; raises ValueError if it does not fit."""
    out_shape: tuple[int, ...] = in_shape
    weight_shape: tuple[int, ...] | None = None
    num_multiply_adds = 0
    takes_either = isinstance(layer, Relu | Tanh | Dropout)
    if not takes_either and isinstance(layer, Linear) == (len(in_shape) == 3):
        raise ValueError(f"{layer.name}: cannot take an input of shape {in_shape}")
    match layer:
        case Conv():
            channels, height, width = in_shape
            top, left, bottom, right = layer.padding
            if channels % layer.groups or layer.out_channels % layer.groups:
                raise ValueError(f"{layer.name}: {channels} channels do not split into {layer.groups} groups")
            out_shape = (
                layer.out_channels,
                (height + top + bottom - layer.kernel) // layer.stride + 1,
                (width + left + right - layer.kernel) // layer.stride + 1,
            )
            weight_shape = (layer.out_channels, channels // layer.groups, layer.kernel, layer.kernel)
            num_multiply_adds = math.prod(weight_shape) * out_shape[1] * out_shape[2]
        case MaxPool() | AveragePool():
            out_shape = _pooled(layer, in_shape)
        case AdaptiveAveragePool():
            out_shape = _pooled(adaptive_window(layer, in_shape), in_shape)
        case LocalNorm():
            if in_shape[0] % layer.groups:
                raise ValueError(f"{layer.name}: {in_shape[0]} channels do not split into {layer.groups} groups")
        case Flatten():
            out_shape = (math.prod(in_shape),)
        case Linear():
            out_shape = (layer.out_features,)
            weight_shape = (layer.out_features, in_shape[0])
            num_multiply_adds = math.prod(weight_shape)
        case Relu() | Tanh() | Dropout() | SpatialNorm():
            pass
    if min(out_shape) < 1:
        raise ValueError(f"{layer.name}: output would be empty for input shape {in_shape}")
    return LayerCost(
        layer=layer,
        in_shape=in_shape,
        out_shape=out_shape,
        weight_shape=weight_shape,
        num_multiply_adds=num_multiply_adds,
    )


def _pooled(layer: MaxPool | AveragePool, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    channels, height, width = in_shape
    top, left, bottom, right = layer.margins
    height, width = height + top + bottom, width + left + right
    # Caffe and cuda-convnet round up, torch rounds down: a table where this makes a difference is refused.
    if (height - layer.kernel) % layer.stride or (width - layer.kernel) % layer.stride:
        raise ValueError(f"{layer.name}: windows of {layer.kernel} do not tile {height} x {width} exactly")
    return (channels, (height - layer.kernel) // layer.stride + 1, (width - layer.kernel) // layer.stride + 1)
