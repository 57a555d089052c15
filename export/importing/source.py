"""What a reader finds in a third-party file: tensors under the file's own names, and the layers that use them.

A reader changes nothing: tensors keep their names, layouts and order of axes; constants keep their conventions. So a
referee (export/importing/referees/) can run the source as its own program does, and the recogniser
(export/importing/recognise.py) can convert it to our table and tensors. The two are independent, so that one proves the
other.

N images, C channels, H height, W width, I input channels of one group, O output channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import RGB, ChannelOrder, DecodePolicy, ResizePolicy

Padding: TypeAlias = tuple[int, int, int, int]
"""(top, left, bottom, right), in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolve:
    """A convolution; like all these programs, it computes a cross-correlation."""

    name: str
    """The layer's name in the file."""
    weight: str
    """Name of the tensor of filters."""
    bias: str | None
    """Name of the tensor of biases; None where there is none."""
    layout: Literal["OIHW", "HWIO"]
    """Order of the weight's axes."""
    stride: int = 1
    padding: Padding = (0, 0, 0, 0)
    groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """An element-wise function."""

    name: str
    function: Literal["relu", "tanh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise:
    """Local response normalisation across channels: a / (k + scale * sum of a^2 over `size` channels) ** beta."""

    name: str
    size: int
    """Channels in the window, 2 * radius + 1."""
    alpha: float
    """As in the file."""
    alpha_is_divided: bool
    """True where the program divides alpha by `size` (Caffe, ONNX, torch), False where not (TensorFlow, MatConvNet)."""
    beta: float
    k: float
    groups: int = 1
    """Columns of channels that the window stays within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialNormalise:
    """Response normalisation within each channel: a * (k + alpha * mean of a^2 over size x size) ** -beta."""

    name: str
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Batch normalisation at inference: (a - mean) / sqrt(variance + epsilon) * scale + shift, by channel.

    Without `mean` and `variance` it is a * scale + shift: Caffe's layer of that name.
    """

    name: str
    mean: str | None
    variance: str | None
    scale: str | None
    shift: str | None
    epsilon: float
    factor: str | None = None
    """Caffe's third blob: mean and variance are divided by it; None elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pooling over kernel x kernel windows."""

    name: str
    function: Literal["max", "average"]
    kernel: int
    stride: int
    padding: Padding = (0, 0, 0, 0)
    round_up: bool = False
    """True where a last, partial window counts (Caffe)."""
    counts_padding: bool = False
    """Of averages: True where padding counts in the divisor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePool:
    """Average pooling to a square of `size` from any input size, as in torch."""

    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unroll:
    """(C, H, W) to one row."""

    name: str
    order: Literal["CHW", "HWC"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Dropout: nothing at inference; its probability is kept for fine-tuning."""

    name: str
    probability: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A fully connected layer."""

    name: str
    weight: str
    bias: str | None
    layout: Literal["OI", "IO"]
    """Order of the weight's axes: torch and Caffe (out, in), TensorFlow and Keras (in, out)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """The last step, if the file has it."""

    name: str


SourceLayer: TypeAlias = (
    Convolve | Activate | Normalise | SpatialNormalise | Scale | Pool | AdaptivePool | Unroll | Drop | Connect | Softmax
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A fact that the file does not contain, taken from what is known about its source."""

    subject: str
    """Its subject: "architecture", "channel order", "mean", "resize", "fc6's order", "LRN", "labels"."""
    value: str
    """The assumed value, in words."""
    reason: str
    """Why, in words."""
    option: str | None
    """The option that overrides it, as typed: "--channel-order"; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanImage:
    """A mean for each pixel of the resized image, as Caffe computes it over the training images."""

    name: str
    """Name of its file."""
    pixels: np.ndarray
    """float32 (3, H, W), on 0..255, channels in the order of the network's input."""

    def in_rgb(self, order: ChannelOrder) -> np.ndarray:
        """Return the pixels in the order red, green, blue; `order` is that of the network's input."""
        return self.pixels if order == "RGB" else np.ascontiguousarray(self.pixels[::-1])

    def channel_means(self, order: ChannelOrder) -> RGB:
        """Return the mean of each channel, red, green, blue."""
        red, green, blue = (float(mean) for mean in self.in_rgb(order).mean(axis=(1, 2), dtype=np.float64))
        return red, green, blue


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePreprocessing:
    """The preprocessing of the source's network; None for facts that the file does not contain."""

    resize: ResizePolicy | None = None
    channel_order: ChannelOrder | None = None
    mean: tuple[float, float, float] | None = None
    """Red, green, blue, on 0..255."""
    mean_image: MeanImage | None = None
    """Used instead of `mean`."""
    scale: tuple[float, float, float] | None = None
    """Red, green, blue: the factor of (pixel - mean)."""
    decode: DecodePolicy = "exact"
    """As in graphs of this program; no other file has it."""
    input_size: int | None = None
    """Side of the square crop in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One third-party file, read but not yet recognised."""

    path: Path
    sha256: str
    """Digest of the file that holds the tensors."""
    format: str
    """In words, specific enough to tell variants apart: "Caffe model (V1 layers)", "torch checkpoint"."""
    tensors: Mapping[str, np.ndarray]
    """float32, under the file's own names, in the file's own layouts."""
    layers: tuple[SourceLayer, ...] | None
    """In order of execution, without input, loss and accuracy layers; None if the file contains only tensors."""
    preprocessing: SourcePreprocessing
    labels: tuple[str, ...] | None
    """Names of the classes; None if the file has none."""
    trained: tuple[Convolve | Connect, ...] | None = None
    """The layers that have tensors, in order, of a file that names these only; their strides and paddings are not known
    yet."""
    origin: str | None = None
    """Key of the entry in export/importing/known.py; None if the reader cannot tell."""
    table: Architecture | None = None
    """The table of ours that the file names as its origin; used if its layers match that table."""
    assumptions: tuple[Assumption, ...] = ()
    """Assumptions of the reader itself."""


class Reader(Protocol):
    """One format: a module of export/importing/readers with these two functions, entered once in its registry."""

    def recognises(self, path: Path, start: bytes) -> bool:
        """Return whether this is a file (or folder) of the format, by its first bytes, never by its name alone."""
        ...

    def read(self, path: Path) -> Source:
        """Read it; raises WeightsError, one sentence, for a damaged, hostile or unsupported file."""
        ...
