"""The referee of state dicts: a plain torch.nn.Sequential, rebuilt from the source's own order of layers.

It uses neither our table nor the recogniser, whose work it has to prove.

N images, K classes, S side of the input.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.export.importing.source import (
    Activate,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Softmax,
    Source,
    SourceLayer,
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
        case Normalise(alpha_is_divided=True, groups=1):
            return nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
        case Pool(function="max", padding=(0, 0, 0, 0)):
            return nn.MaxPool2d(layer.kernel, layer.stride, ceil_mode=layer.round_up)
        case Unroll(order="CHW"):
            return nn.Flatten()
        case Drop():
            return nn.Dropout(layer.probability)
        case Softmax():
            return nn.Identity()
    raise WeightsError(f"{layer.name}: {type(layer).__name__} is not a layer of a state dict's network")


def _fill(
    module: nn.Conv2d | nn.Linear, weight: torch.Tensor, bias: str | None, tensors: Mapping[str, np.ndarray]
) -> None:
    module.weight = nn.Parameter(weight, requires_grad=False)
    values = torch.zeros(len(weight)) if bias is None else torch.from_numpy(tensors[bias])
    module.bias = nn.Parameter(values, requires_grad=False)
