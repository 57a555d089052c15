"""Known faults of programs that decode images for the network, as decoders that make them.

`check --pixels` compares a program's pixels with theirs: the nearest fault is the program's own.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.images.colour import rgb_conversion
from alexnet_deploy.core.images.decode import decode_pixels
from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.images.view import RgbView
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ImagePolicy, ResizePolicy
from alexnet_deploy.pipeline.golden import resizing
from alexnet_deploy.pipeline.golden.resizing import Box

# H height, W width, C channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One golden file, and what is to come of it."""

    policy: ImagePolicy
    expected: np.ndarray
    """The right pixels, uint8 (256, 256, 3)."""
    stored: Image.Image
    """The image as the file stores it: its own mode, not rotated."""
    upright: Image.Image
    """The image that is resized, RGB and upright: the whole one, or a scaled one."""
    whole: Image.Image
    """The image in its own size, RGB and upright."""

    @classmethod
    def of(cls, data: bytes, policy: ImagePolicy, expected: np.ndarray) -> Self:
        """Return the source of a file's bytes; raises ImageError if this program cannot decode them."""
        upright = decode_pixels(data, policy.decode)
        try:
            stored = Image.open(io.BytesIO(data))
            stored.load()
        except OSError as error:
            raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"no golden file has this format: {error}") from error
        return cls(policy=policy, expected=expected, stored=stored, upright=upright, whole=decode_pixels(data))


Fault = Callable[[Source], np.ndarray | None]
"""Returns the faulty pixels, uint8 (256, 256, 3); None where the fault does not apply to the file."""


def _red_and_blue_swapped(source: Source) -> np.ndarray:
    return source.expected[..., ::-1]


def _planes(source: Source) -> np.ndarray:
    return source.expected.transpose(2, 0, 1).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)


def _rows_and_columns_swapped(source: Source) -> np.ndarray:
    return source.expected.transpose(1, 0, 2)


def _other_orientation(others: dict[int, int]) -> Fault:
    """Return the fault of a program that applies another orientation than the file's."""

    def decode(source: Source) -> np.ndarray | None:
        image = source.stored
        orientation = others.get(image.getexif().get(ExifTag.Orientation, 1))
        if orientation is None:
            return None
        return to_square(
            RgbView(image=image, convert=rgb_conversion(image), orientation=orientation), source.policy.resize
        )

    return decode


def _other_policy(policy: ResizePolicy) -> Fault:
    return lambda source: None if source.policy.resize == policy else to_square(source.upright, policy)


def _resized(resize: Callable[[np.ndarray, Box], np.ndarray]) -> Fault:
    """Return the fault of a program that resizes the right part of the image in another way."""

    def decode(source: Source) -> np.ndarray:
        pixels = np.asarray(source.upright)
        return resize(pixels, resizing.box_of(pixels, source.policy.resize))

    return decode


def _cropped(crop: Callable[[Image.Image], np.ndarray | None]) -> Fault:
    """Return the fault of a program that takes another part of the image; `warp` takes all of it."""
    return lambda source: crop(source.upright) if source.policy.resize == "shorter-side" else None


def _curve(exponent: float) -> Fault:
    levels = (255 * (np.arange(256) / 255) ** exponent + 0.5).astype(np.uint8)
    return lambda source: levels[source.expected]


def _other_yuv(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """Return the fault of a program that reads a JPEG's luma and chroma on another scale."""

    def decode(source: Source) -> np.ndarray | None:
        if source.stored.format != "JPEG" or source.stored.mode == "CMYK":
            return None
        yuv = np.asarray(source.upright.convert("YCbCr"), np.float64) - (0.0, 128.0, 128.0)
        rgb = np.clip(change(yuv) + 0.5, 0, 255).astype(np.uint8)
        return to_square(Image.fromarray(rgb), source.policy.resize)

    return decode


# Source: ITU-R BT.601-7, section 2.5.1, and BT.709-6, section 3: the conversion of luma and chroma to RGB.
_BT601 = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
_BT709 = np.array([[1, 0, 1.5748], [1, -0.187324, -0.468124], [1, 1.8556, 0]])
_LIMITED = np.array([255 / 219, 255 / 224, 255 / 224])
_BLACK = np.array([16.0, 0.0, 0.0])


def _read_as_limited(yuv_HWC: np.ndarray) -> np.ndarray:
    rgb: np.ndarray = ((yuv_HWC - _BLACK) * _LIMITED) @ _BT601.T
    return rgb


def _left_in_limited(yuv_HWC: np.ndarray) -> np.ndarray:
    rgb: np.ndarray = (yuv_HWC / _LIMITED + _BLACK) @ _BT601.T
    return rgb


def _read_as_bt709(yuv_HWC: np.ndarray) -> np.ndarray:
    rgb: np.ndarray = yuv_HWC @ _BT709.T
    return rgb


def _transparent(finish: Callable[[Image.Image], Image.Image]) -> Fault:
    """Return the fault of a program that treats transparency in another way; `finish` gets RGBA."""

    def decode(source: Source) -> np.ndarray | None:
        image = source.stored
        if not image.has_transparency_data:
            return None
        return to_square(finish(image.convert("RGBA")), source.policy.resize)

    return decode


def _over_black(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")


def _without_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _of_deep_grey(reduce: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """Return the fault of a program that makes 8 bits of 16-bit grey in another way."""

    def decode(source: Source) -> np.ndarray | None:
        image = source.stored
        if not image.mode.startswith("I;16"):
            return None
        grey = reduce(np.asarray(image).astype(np.uint32)).astype(np.uint8)
        return to_square(Image.fromarray(grey).convert("RGB"), source.policy.resize)

    return decode


def _cmyk_inverted(source: Source) -> np.ndarray | None:
    image = source.stored
    if image.mode != "CMYK":
        return None
    return to_square(Image.fromarray(255 - np.asarray(image), "CMYK").convert("RGB"), source.policy.resize)


def _cmyk_subtracted(source: Source) -> np.ndarray | None:
    image = source.stored
    if image.mode != "CMYK":
        return None
    cmyk = np.asarray(image).astype(np.int16)
    return to_square(
        Image.fromarray(np.clip(255 - cmyk[..., :3] - cmyk[..., 3:], 0, 255).astype(np.uint8)), source.policy.resize
    )


def _palette_numbers(source: Source) -> np.ndarray | None:
    image = source.stored
    if image.mode != "P":
        return None
    return to_square(Image.fromarray(np.asarray(image)).convert("RGB"), source.policy.resize)


def _decoded_whole(source: Source) -> np.ndarray | None:
    if source.whole.size == source.upright.size:
        return None
    return to_square(source.whole, source.policy.resize)


_EXIF_IGNORED = dict.fromkeys(range(2, 9), 1)
_EXIF_REVERSED = {5: 7, 6: 8, 7: 5, 8: 6}

FAULTS: dict[str, Fault] = {
    "red and blue are swapped (BGR)": _red_and_blue_swapped,
    "warp: the whole image is resized, not its central square": _other_policy("warp"),
    "shorter-side: only the central square is resized, not the whole image": _other_policy("shorter-side"),
    "INTER_LINEAR: resized without antialiasing": _resized(resizing.four_neighbours),
    "INTER_LINEAR: cropped, then resized without antialiasing": _cropped(resizing.cropped_four_neighbours),
    "INTER_LINEAR: resized without antialiasing, then cropped": _cropped(
        resizing.resized_first("nearest", antialias=False)
    ),
    "INTER_NEAREST: resized to the nearest pixels": _resized(resizing.nearest),
    "INTER_AREA: the mean of the covered area instead of bilinear": _resized(resizing.by_area),
    "bicubic instead of bilinear": _resized(resizing.by_filter(Image.Resampling.BICUBIC)),
    "Lanczos instead of bilinear": _resized(resizing.by_filter(Image.Resampling.LANCZOS)),
    "gamma: resized in linear light": _resized(resizing.in_linear_light),
    "gamma: the pixels are darkened by an exponent of 2.2": _curve(2.2),
    "gamma: the pixels are brightened by an exponent of 1/2.2": _curve(1 / 2.2),
    "EXIF orientation is ignored": _other_orientation(_EXIF_IGNORED),
    "EXIF orientations 5 to 8 are rotated the other way": _other_orientation(_EXIF_REVERSED),
    "limited-range YUV: luma of 0..255 is read as 16..235": _other_yuv(_read_as_limited),
    "limited-range YUV: the pixels are left in 16..235": _other_yuv(_left_in_limited),
    "YUV: BT.709's matrix instead of JPEG's, BT.601": _other_yuv(_read_as_bt709),
    "crop: resized first, its longer side rounded down, and cropped there": _cropped(resizing.resized_first("down")),
    "crop: resized first, its longer side rounded, and cropped there": _cropped(resizing.resized_first("nearest")),
    "crop: off by one, its offset rounded up": _cropped(resizing.offset_rounded_up),
    "crop: off by one, one pixel right and down of 256": _cropped(resizing.moved_by_one),
    "crop: cut out before the resize, so that the filter does not read past its edge": _cropped(resizing.cut_out),
    "resized vertically first, then horizontally": _resized(resizing.vertically_first),
    "transparency is composited on black, not on white": _transparent(_over_black),
    "transparency is dropped, so that hidden colours show": _transparent(_without_alpha),
    "16-bit grey is clipped at 255, not scaled": _of_deep_grey(lambda grey: np.minimum(grey, 255)),
    "16-bit grey is cut to its high byte, not rounded": _of_deep_grey(lambda grey: grey >> 8),
    "16-bit grey is cut to its low byte": _of_deep_grey(lambda grey: grey & 255),
    "CMYK is inverted": _cmyk_inverted,
    "CMYK: black is subtracted, not multiplied": _cmyk_subtracted,
    "exact: a large JPEG is decoded whole, not at a smaller scale": _decoded_whole,
    "palette numbers are taken for grey": _palette_numbers,
    "the channels are written as planes, not interleaved": _planes,
    "mirrored": lambda source: source.expected[:, ::-1],
    "upside down": lambda source: source.expected[::-1],
    "rows and columns are swapped": _rows_and_columns_swapped,
}
"""Each fault by its name; of two that fit equally well, the first is named."""
