"""Convert decoded pixels of any type to 8-bit RGB on a white background."""

from collections.abc import Callable

import numpy as np
from PIL import Image, TiffImagePlugin

from alexnet_deploy.core.codecs.tiff import MAX_SAMPLE_VALUE
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

Convert = Callable[[Image.Image], Image.Image]


def rgb_conversion(image: Image.Image) -> Convert | None:
    """Return a function that converts any part of a loaded image to RGB on white; None if the image is RGB already.

    Decisions that depend on the whole image are made here. Raises ImageError (truncated, unsupported_format).
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return None
    if image.mode == "P" and image.palette is None:
        raise ImageError(ImageErrorCode.TRUNCATED, "its palette is missing")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _grey_conversion(image)
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{image.mode} pixels have no defined range")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        # Programs without transparency write alpha 0 everywhere, though the header announces alpha; browsers show such
        # an image opaque.
        return _opaque
    return _over_white if image.has_transparency_data else _opaque


def scale_colour_key(image: Image.Image, depth: int) -> None:
    """Scale a PNG's transparent colour from the file's bit depth to the 8 bits of the pixels."""
    # Pillow scales the pixels to 8 bits but leaves the key at the file's depth: no pixel would match it.
    key = image.info.get("transparency")
    if depth in (2, 4) and image.mode == "L" and isinstance(key, int):
        largest = 2**depth - 1
        image.info["transparency"] = (key & largest) * 255 // largest
    elif depth == 16 and image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _opaque(part: Image.Image) -> Image.Image:
    return part.convert("RGB")


def _over_white(part: Image.Image) -> Image.Image:
    # Pillow needs two steps to convert premultiplied grey.
    layer = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _grey_conversion(image: Image.Image) -> Convert:
    largest, zero_is_white = 65535, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow returns 12-bit values unscaled, and 16-bit values with zero as white not inverted.
        depth = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
        largest = 2 ** _used_bits(image, depth) - 1
        zero_is_white = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    key = image.info.get("transparency")

    # Pillow's convert("RGB") saturates 16-bit grey: 127.5 becomes 254.5.
    def scaled(part: Image.Image) -> Image.Image:
        values = np.minimum(np.asarray(part).astype(np.uint32), largest)
        if zero_is_white:
            values = largest - values
        grey = (values * 255 + largest // 2) // largest
        if key is not None:
            grey[values == key] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

    return scaled


def _used_bits(image: TiffImagePlugin.TiffImageFile, depth: int) -> int:
    """Return the number of used bits of each sample: 12 of 16 if the file's largest value is 4095."""
    largest = image.tag_v2.get(MAX_SAMPLE_VALUE)
    value = largest[0] if isinstance(largest, tuple) else largest
    # At least 8, so that a dark image stays dark. Whole bits: the largest value found in an image is not its white.
    return min(max(value.bit_length(), 8), depth) if isinstance(value, int) and value > 0 else depth
