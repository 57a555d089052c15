"""The torch network built from a table: the reference that every engine is compared with.

N images (or views), C channels, H height, W width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
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
)
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.core.model.views import View


class LocalNormModule(nn.Module):
    """Local response normalisation of (N, C, H, W); see core/model/architecture.py for the convention.

    The window stays within each of `groups` equal blocks of consecutive channels.
    """

    def __init__(self, layer: LocalNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised values, of the same shape."""
        layer = self.layer
        columns = x.reshape(x.shape[0] * layer.groups, -1, *x.shape[2:])
        normed = functional.local_response_norm(columns, layer.size, layer.alpha, layer.beta, layer.k)
        return normed.reshape(x.shape)

    def extra_repr(self) -> str:
        """Return the arguments, for repr."""
        return repr(self.layer)


class SpatialNormModule(nn.Module):
    """Response normalisation of (N, C, H, W) over a square window within each channel, zeros outside."""

    def __init__(self, layer: SpatialNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised values, of the same shape."""
        layer = self.layer
        mean_square = functional.avg_pool2d(x * x, layer.size, stride=1, padding=layer.size // 2)
        return x * (layer.k + layer.alpha * mean_square) ** -layer.beta


class Network(nn.Module):
    """The layers of a table, in order; tensors are named as in the table (conv1.weight, ..., fc8.bias)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        for cost in architecture.costs():
            self.add_module(cost.layer.name, module_of(cost.layer, cost.in_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, float (N, K), for preprocessed views, float (N, 3, input_size, input_size)."""
        for module in self.children():
            x = module(x)
        return x


class ConvModule(nn.Conv2d):
    """A convolution of (N, C, H, W) with separate padding for each side, which nn.Conv2d cannot do."""

    def __init__(self, layer: Conv, in_channels: int) -> None:
        self.margins = (layer.padding[1], layer.padding[3], layer.padding[0], layer.padding[2])
        self.is_symmetric = len(set(layer.padding)) == 1
        super().__init__(
            in_channels,
            layer.out_channels,
            layer.kernel,
            stride=layer.stride,
            padding=layer.padding[0] if self.is_symmetric else 0,
            groups=layer.groups,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of the padded input."""
        return super().forward(x if self.is_symmetric else functional.pad(x, self.margins))


class MaxPoolModule(nn.MaxPool2d):
    """A maximum pool of (N, C, H, W) with separate padding for each side, which nn.MaxPool2d cannot do."""

    def __init__(self, layer: MaxPool) -> None:
        top, left, bottom, right = layer.margins
        self.margins = (left, right, top, bottom)
        super().__init__(layer.kernel, layer.stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maximum of each window."""
        padded = functional.pad(x, self.margins, value=-torch.inf) if any(self.margins) else x
        return functional.max_pool2d(padded, self.kernel_size, self.stride)


class AveragePoolModule(nn.Module):
    """An average pool of (N, C, H, W) with separate padding for each side, which nn.AvgPool2d cannot do."""

    def __init__(self, layer: AveragePool) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of each window."""
        layer = self.layer
        top, left, bottom, right = layer.margins

        def mean(values: torch.Tensor) -> torch.Tensor:
            return functional.avg_pool2d(functional.pad(values, (left, right, top, bottom)), layer.kernel, layer.stride)

        return mean(x) if layer.counts_padding or not any(layer.margins) else mean(x) / mean(torch.ones_like(x[:1, :1]))

    def extra_repr(self) -> str:
        """Return the arguments, for repr."""
        return repr(self.layer)


def module_of(layer: Layer, in_shape: tuple[int, ...]) -> nn.Module:
    """Return the module of one layer, for an input of this shape; see LayerCost."""
    match layer:
        case Conv():
            return ConvModule(layer, in_shape[0])
        case Relu():
            return nn.ReLU()
        case Tanh():
            return nn.Tanh()
        case LocalNorm():
            return LocalNormModule(layer)
        case SpatialNorm():
            return SpatialNormModule(layer)
        case MaxPool():
            return MaxPoolModule(layer)
        case AveragePool():
            return AveragePoolModule(layer)
        case AdaptiveAveragePool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case Flatten():
            return nn.Flatten()
        case Dropout():
            return nn.Dropout(layer.probability)
        case Linear():
            return nn.Linear(in_shape[0], layer.out_features)


def preprocess(
    images: torch.Tensor, preprocessing: Preprocessing, mean_image: np.ndarray | None = None
) -> torch.Tensor:
    """Return the network's input, float32 (N, 3, H, W), from RGB pixels (N, H, W, 3) in 0..255; the device is kept.

    A preprocessing with a mean image needs it, float32 (3, 256, 256), and whole images.
    """
    assert preprocessing.has_mean_image == (mean_image is not None), "both come from the same weights"
    order = list(preprocessing.channel_indices)
    means = torch.tensor(preprocessing.mean).view(3, 1, 1) if mean_image is None else torch.from_numpy(mean_image)
    mean = means[order].to(images.device)
    scale = torch.tensor(preprocessing.scale, device=images.device)[order].view(1, 3, 1, 1)
    return (images.permute(0, 3, 1, 2)[:, order].float() - mean) * scale


def cut(pixels: torch.Tensor, view: View, size: int) -> torch.Tensor:
    """Return one view, (N, 3, size, size), of (N, 3, 256, 256)."""
    crop = pixels[:, :, view.top : view.top + size, view.left : view.left + size]
    return crop.flip(3) if view.mirrored else crop


def network_from(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> Network:
    """Return the trained network, in evaluation mode, with copies of `tensors` (see Architecture.tensor_shapes)."""
    # The meta device skips the random initialisation of 61 million parameters, which would be overwritten.
    with torch.device("meta"):
        network = Network(architecture)
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def tensors_of(network: Network) -> dict[str, np.ndarray]:
    """Return copies of the network's tensors, float32, by name, in table order."""
    return {name: tensor.detach().cpu().float().numpy().copy() for name, tensor in network.state_dict().items()}
