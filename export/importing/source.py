"""What a reader finds in somebody else's file: tensors under the file's own names, and the layers that use them.

A reader changes nothing: tensors keep their names, layouts and byte order of axes; constants keep their conventions. So
the referee (export/importing/referee.py) can run the source as its own program would, and the recogniser
(export/importing/recognise.py) can turn it into a table and tensors of ours; each independently, so that one proves the
other.

N images, C channels, H height, W width, I input channels of one group, O output channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import ChannelOrder, ResizePolicy

Padding: TypeAlias = tuple[int, int, int, int]
"""(top, left, bottom, right), in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolve:
    """A convolution, or cross-correlation, as all these programs have it."""

    name: str
    """The file's own name of the layer."""
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
    """As the file says it."""
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
    """Average pooling to a square of `size`, whatever comes in, as torch has it."""

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
    """The last step, where the file has it."""

    name: str


SourceLayer: TypeAlias = (
    Convolve | Activate | Normalise | SpatialNormalise | Scale | Pool | AdaptivePool | Unroll | Drop | Connect | Softmax
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """Something that the file does not say, taken from what is known of its source."""

    subject: str
    """What it is about: "architecture", "channel order", "mean", "resize", "fc6's order", "LRN", "labels"."""
    value: str
    """What was taken, in words."""
    reason: str
    """Why, in words."""
    option: str | None
    """The option that says otherwise, as typed: "--channel-order"; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePreprocessing:
    """What is known of what the source's network is fed; None where its file does not say."""

    resize: ResizePolicy | None = None
    channel_order: ChannelOrder | None = None
    mean: tuple[float, float, float] | None = None
    """Red, green, blue, on 0..255."""
    mean_image: np.ndarray | None = None
    """float32 (256, 256, 3), red, green, blue, on 0..255: Caffe's mean picture."""
    scale: tuple[float, float, float] | None = None
    """Red, green, blue: what (pixel - mean) is multiplied by."""
    input_size: int | None = None
    """Side of the square crop in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of somebody else's, read and not yet understood."""

    path: Path
    sha256: str
    """Digest of the file that holds the tensors."""
    format: str
    """In words, with what tells it from its siblings: "Caffe model (V1 layers)", "torch checkpoint"."""
    tensors: Mapping[str, np.ndarray]
    """float32, under the file's own names, in the file's own layouts."""
    layers: tuple[SourceLayer, ...] | None
    """In order of execution, without input, loss and accuracy layers; None where the file holds tensors alone."""
    preprocessing: SourcePreprocessing
    labels: tuple[str, ...] | None
    """Names of the classes, where the file has them."""
    origin: str | None = None
    """Key of what is known of such sources (export/importing/known.py); None where the reader cannot tell."""
    table: Architecture | None = None
    """The table of ours that the file says it was made from; taken where its layers are that table's."""
    assumptions: tuple[Assumption, ...] = ()
    """What the reader itself had to assume."""


class Reader(Protocol):
    """One format: a module of export/importing/readers with these two functions, entered once in its registry."""

    def recognises(self, path: Path, start: bytes) -> bool:
        """Return whether this is a file (or folder) of the format, by its first bytes, never by its name alone."""
        ...

    def read(self, path: Path) -> Source:
        """Read it. Raises WeightsError, one sentence, for what is damaged, hostile or not supported."""
        ...
