"""Image preprocessing between the file and the first layer, stored with the weights that need it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

IMAGE_SIZE = 256
"""Side in pixels of the square that every image is resized to; the views are cropped from it."""

DECODING_VERSION = 2
"""Version of the decoding policy (core/images/decode.py): under one version the same file gives the same pixels.

Increase it when the same file gives different pixels. A packed set, a resumed run and a partial file of rows hold
pixels, or results computed from them, of one version only. The versions:

1: resized by one call of Pillow, whose version decided the last bit; colour profiles ignored.
2: horizontal pass first, then vertical; see core/images/decode.py.
"""

RESIZE_FILTER = "Pillow bilinear, antialiased, horizontal pass first"
"""How images are resized to 256 x 256, as text for programs that decode them elsewhere; see core/images/resize.py."""

ResizePolicy: TypeAlias = Literal["shorter-side", "warp"]
DecodePolicy: TypeAlias = Literal["exact", "scaled"]
ChannelOrder: TypeAlias = Literal["RGB", "BGR"]
RGB: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """How an image file becomes the 256 x 256 pixels that enter the network (core/images/decode.py)."""

    resize: ResizePolicy
    """shorter-side: the central square, as in the paper. warp: the whole image resized to a square, as in Caffe."""
    decode: DecodePolicy = "exact"
    """exact: all pixels of a JPEG. scaled: a large JPEG at a half, a quarter or an eighth, several times faster."""

    def __str__(self) -> str:
        """Return the policy as options of the command line say it: `--resize warp --decode scaled`."""
        return f"--resize {self.resize}" + ("" if self.decode == "exact" else f" --decode {self.decode}")


SHORTER_SIDE = ImagePolicy(resize="shorter-side")
WARP = ImagePolicy(resize="warp")
IMAGE_POLICIES: tuple[ImagePolicy, ...] = tuple(
    ImagePolicy(resize=resize, decode=decode) for decode in get_args(DecodePolicy) for resize in get_args(ResizePolicy)
)
"""All image policies."""


class Decoding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How image files are decoded to the pixels that enter the network."""

    version: int
    """Version of the decoding policy: DECODING_VERSION of the program that wrote this record."""
    resize_filter: str
    """The filter and the order of its passes."""


DECODING = Decoding(version=DECODING_VERSION, resize_filter=RESIZE_FILTER)
"""The decoding of this program."""


class Preprocessing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The preprocessing that the network was trained with.

    The input of the first layer is (pixel - mean) * scale, pixel in 0..255, its channels in `channel_order`. `mean` and
    `scale` are always in the order red, green, blue. `resize` and `decode` are those of `image_policy`.
    """

    resize: ResizePolicy
    decode: DecodePolicy = "exact"
    channel_order: ChannelOrder
    mean: RGB
    scale: RGB
    has_mean_image: bool = False
    """Whether each pixel has a mean of its own, in the weights' mean image; `mean` then holds its channel means."""

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 255.0 for value in self.mean):
            raise ValueError(f"mean {self.mean} lies outside the pixel range 0..255")
        if not all(0.0 < value < float("inf") for value in self.scale):
            raise ValueError(f"scale {self.scale} must be positive and finite")

    @property
    def image_policy(self) -> ImagePolicy:
        """How the image files are decoded and resized."""
        return ImagePolicy(resize=self.resize, decode=self.decode)

    @property
    def channel_indices(self) -> tuple[int, int, int]:
        """For each channel of the network, its index in an RGB pixel."""
        return (0, 1, 2) if self.channel_order == "RGB" else (2, 1, 0)
