"""The referee of state dicts: a plain torch.nn.Sequential, rebuilt from the source's own order of layers.

It uses neither our table nor the recogniser, whose work it has to prove.

N images, K classes, S side of the input.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_deploy.core.errors import WeightsError
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

_IMAGES_AT_ONCE = 8


def answers(source: Source, inputs: np.ndarray) -> np.ndarray:
    """Return the source's own probabilities, float64 (N, K), for its input, float32 (N, 3, S, S).

    Raises WeightsError for a layer that a state dict's layers do not have.
    """
    assert source.layers is not None, "a state dict's layers are filled in first"
    with torch.inference_mode():
        network = nn.Sequential(*(_module(layer, source.tensors) for layer in source.layers)).eval()
        parts = [network(torch.from_numpy(part)) for part in np.array_split(inputs, -(-len(inputs) // _IMAGES_AT_ONCE))]
        probabilities: np.ndarray = torch.softmax(torch.cat(parts).double(), dim=1).numpy()
    return probabilities


def _module(layer: SourceLayer, tensors: Mapping[str, np.ndarray]) -> nn.Module:
    match layer:
        case Convolve(layout="OIHW"):
            weight = torch.from_numpy(tensors[layer.weight])
            _, channels, height, width = weight.shape
            top, left, bottom, right = layer.padding
            convolution = nn.Conv2d(
                channels * layer.groups,
                len(weight),
                (height, width),
                layer.stride,
                groups=layer.groups,
                device="meta",
            )
            _fill(convolution, weight, layer.bias, tensors)
            return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), convolution)
        case Connect(layout="OI"):
            weight = torch.from_numpy(tensors[layer.weight])
            linear = nn.Linear(weight.shape[1], len(weight), device="meta")
            _fill(linear, weight, layer.bias, tensors)
            return linear
        case Activate(function="relu"):
            return nn.ReLU()
        case Activate(function="tanh"):
            return nn.Tanh()
        case Normalise(alpha_is_divided=True):
            return _Columns(nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k), layer.groups)
        case SpatialNormalise():
            return _SpatialNorm(layer)
        case Scale():
            return _batch_norm(layer, tensors)
        case Pool():
            return _pool(layer)
        case AdaptivePool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case Unroll(order="CHW"):
            return nn.Flatten()
        case Drop():
            return nn.Dropout(layer.probability)
        case Softmax():
            return nn.Identity()
    raise WeightsError(f"{layer.name}: {type(layer).__name__} is not a layer of a state dict's network")


class _Columns(nn.Module):
    """A module that sees one column of channels at a time."""

    def __init__(self, inner: nn.Module, groups: int) -> None:
        super().__init__()
        self.inner, self.groups = inner, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(column) for column in x.chunk(self.groups, dim=1)], dim=1)


class _SpatialNorm(nn.Module):
    def __init__(self, layer: SpatialNormalise) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        # Sums over the window by a convolution with ones, channel by channel.
        ones = torch.ones(x.shape[1], 1, layer.size, layer.size)
        sums = functional.conv2d(x.square(), ones, padding=layer.size // 2, groups=x.shape[1])
        return x / (layer.k + layer.alpha / layer.size**2 * sums) ** layer.beta


def _batch_norm(layer: Scale, tensors: Mapping[str, np.ndarray]) -> nn.Module:
    assert layer.mean is not None, "a state dict's batch norm has its statistics"
    assert layer.variance is not None, "a state dict's batch norm has its statistics"
    norm = nn.BatchNorm2d(len(tensors[layer.mean]), eps=layer.epsilon)
    parts = {"running_mean": layer.mean, "running_var": layer.variance, "weight": layer.scale, "bias": layer.shift}
    state = {part: torch.from_numpy(tensors[name]) for part, name in parts.items() if name is not None}
    norm.load_state_dict(state, strict=False)
    # Batch norms of a row and of planes differ in the shape that they take.
    return _AnyShape(norm)


class _AnyShape(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = x if x.dim() == 4 else x[:, :, None, None]
        normed: torch.Tensor = self.norm(planes)
        return normed.reshape(x.shape)


def _pool(layer: Pool) -> nn.Module:
    top, left, bottom, right = layer.padding
    if layer.function == "max":
        edges = nn.ConstantPad2d((left, right, top, bottom), -torch.inf)
        return nn.Sequential(edges, nn.MaxPool2d(layer.kernel, layer.stride, ceil_mode=layer.round_up))
    if layer.counts_padding or not any(layer.padding):
        average = nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=layer.round_up)
        return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), average)
    return _MeanOfPixels(layer)


class _MeanOfPixels(nn.Module):
    """Averages over windows, padding left out of the divisor."""

    def __init__(self, layer: Pool) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = self.layer.padding

        def sums(values: torch.Tensor) -> torch.Tensor:
            padded = functional.pad(values, (left, right, top, bottom))
            return functional.avg_pool2d(padded, self.layer.kernel, self.layer.stride, divisor_override=1)

        return sums(x) / sums(torch.ones_like(x))


def _fill(
    module: nn.Conv2d | nn.Linear, weight: torch.Tensor, bias: str | None, tensors: Mapping[str, np.ndarray]
) -> None:
    module.weight = nn.Parameter(weight, requires_grad=False)
    values = torch.zeros(len(weight)) if bias is None else torch.from_numpy(tensors[bias])
    module.bias = nn.Parameter(values, requires_grad=False)
