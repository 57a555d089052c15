"""What every engine of a bundle takes and returns: its input tensor, and its output tensor.

images         uint8    (N, 256, 256, 3)   RGB, upright, N of 1 or more
probabilities  float32  (N, K)             each row sums to 1
features       float32  (N, D)             instead of probabilities: one layer's values, averaged over the views
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Architecture, Dropout, LayerCost
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights

IMAGES = "images"
PROBABILITIES = "probabilities"
FEATURES = "features"
"""Names of the graph's one input and one output."""


class TensorContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output tensor of the graph; N is the batch size, K the number of classes, D of features."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]
    meaning: str


class Contract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The input and output of every engine."""

    input: TensorContract
    output: TensorContract


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a graph returns for each image: class probabilities, or the features of one layer."""

    size: int
    """K classes, or D features."""
    layer: str | None = None
    """The layer whose values are the features; None for probabilities."""

    @property
    def name(self) -> str:
        """Name of the graph's output."""
        return PROBABILITIES if self.layer is None else FEATURES

    @property
    def words(self) -> str:
        """What it is, for sentences."""
        return PROBABILITIES if self.layer is None else f"{FEATURES} of {self.layer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an engine runs: a trained network on its views, and what is returned of it."""

    weights: Weights
    """The network."""
    views: tuple[View, ...]
    """The views of each image."""
    output_layer: str | None = None
    """The layer whose features are the output; None for probabilities."""

    @property
    def output(self) -> Output:
        """What is returned; raises UsageError for a layer that gives no features."""
        return output_of(self.weights.architecture, self.output_layer)

    def costs(self) -> Iterator[LayerCost]:
        """Yield the layers that the output depends on."""
        return self.weights.architecture.costs(self.output_layer)


def output_of(architecture: Architecture, layer: str | None = None) -> Output:
    """Return the probabilities of a network, or the features of one of its layers.

    An output (C, H, W) becomes C * H * W features, channel first. Raises UsageError for a layer that gives none.
    """
    if layer is None:
        return Output(size=architecture.num_classes)
    choices = feature_layers(architecture)
    if layer not in choices:
        raise UsageError(f"{layer}: not a layer that gives features; choose from {', '.join(choices)}")
    *_, last = architecture.costs(until=layer)
    return Output(layer=layer, size=math.prod(last.out_shape))


def feature_layers(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the layers that give features: all but dropouts, and the last, whose values are scores."""
    return tuple(layer.name for layer in architecture.layers[:-1] if not isinstance(layer, Dropout))


def contract_for(output: Output) -> Contract:
    """Return the contract of all engines with this output: uint8 images in, float32 out."""
    meaning = "each row sums to 1, in the order of labels.txt"
    if output.layer is not None:
        meaning = f"values of {output.layer}, channel first, averaged over the views"
    return Contract(
        input=TensorContract(
            name=IMAGES, dtype="uint8", shape=("N", IMAGE_SIZE, IMAGE_SIZE, 3), meaning="RGB, upright, 0..255"
        ),
        output=TensorContract(name=output.name, dtype="float32", shape=("N", output.size), meaning=meaning),
    )
