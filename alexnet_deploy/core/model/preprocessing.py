"""What happens to an image between its file and the first layer, bound to the weights that expect it."""

from typing import Literal, TypeAlias

from msgspec import Struct

IMAGE_SIZE = 256
"""Side in pixels of the square that every image is brought to; the views are cut from it."""

DECODING_VERSION = 2
"""Version of the decoding policy (core/images/decode.py): under one version the same file gives the same pixels.

Raise it when a file that was decoded before gives other pixels. A packed set, a run that is resumed and a partial file
of rows hold pixels, or what came of them, of one version only. What each version meant:

1: resized by one call of Pillow, whose version decided the last bit; colour profiles ignored.
2: across first, then down; see core/images/decode.py.
"""

RESIZE_FILTER = "Pillow bilinear, antialiased, horizontal pass first"
"""How images become 256 x 256, in words for those who decode elsewhere; see core/images/resize.py."""

ResizePolicy: TypeAlias = Literal["shorter-side", "warp"]
ChannelOrder: TypeAlias = Literal["RGB", "BGR"]
RGB: TypeAlias = tuple[float, float, float]


class Decoding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How image files become the pixels that the network is fed."""

    version: int
    """Of the decoding policy: DECODING_VERSION of the program that wrote this."""
    resize_filter: str
    """The filter and the order of its passes."""


DECODING = Decoding(version=DECODING_VERSION, resize_filter=RESIZE_FILTER)
"""This program's."""


class Preprocessing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network was trained to be fed.

    The first layer takes (pixel - mean) * scale, pixel in 0..255, its channels in `channel_order`. `mean` and `scale`
    are in the order red, green, blue, whatever `channel_order` is. `resize` is "shorter-side" (the central square,
    as the paper) or "warp" (the whole image squeezed to a square, as Caffe).
    """

    resize: ResizePolicy
    channel_order: ChannelOrder
    mean: RGB
    scale: RGB

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 255.0 for value in self.mean):
            raise ValueError(f"mean {self.mean} lies outside the pixel range 0..255")
        if not all(0.0 < value < float("inf") for value in self.scale):
            raise ValueError(f"scale {self.scale} must be positive and finite")

    @property
    def channel_indices(self) -> tuple[int, int, int]:
        """For each channel of the network, its place in an RGB pixel."""
        return (0, 1, 2) if self.channel_order == "RGB" else (2, 1, 0)
