"""Decoded pixels of any kind to 8-bit RGB over white."""

import numpy as np
from PIL import Image, TiffImagePlugin

from alexnet_deploy.core.codecs.tiff import MAX_SAMPLE_VALUE
from alexnet_deploy.core.errors import ImageError, ImageErrorCode


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in RGB, transparency laid over white; raises ImageError (truncated, unsupported_format)."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "P" and image.palette is None:
        raise ImageError(ImageErrorCode.TRUNCATED, "its palette is missing")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _scaled_grey(image)
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{image.mode} pixels have no defined range")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        # Programs that know no transparency leave its byte 0, in a header that promises it; browsers show it opaque.
        return image.convert("RGB")
    if image.has_transparency_data:
        # Pillow converts premultiplied grey in two steps only.
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def scale_colour_key(image: Image.Image, depth: int) -> None:
    """Bring a PNG's transparent colour from the file's depth to the 8 bits of the pixels."""
    # Pillow brings the pixels to 8 bits and leaves the key at the file's depth: no pixel would match it.
    key = image.info.get("transparency")
    if depth in (2, 4) and image.mode == "L" and isinstance(key, int):
        largest = 2**depth - 1
        image.info["transparency"] = (key & largest) * 255 // largest
    elif depth == 16 and image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _scaled_grey(image: Image.Image) -> Image.Image:
    # Pillow's convert("RGB") saturates 16-bit grey: 127.5 comes out as 254.5.
    values = np.asarray(image).astype(np.uint32)
    largest = 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow hands over 12 bits unscaled, and 16 bits where zero is white uninverted.
        depth = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
        largest = 2 ** _used_bits(image, depth) - 1
        values = np.minimum(values, largest)
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0:
            values = largest - values
    grey = (values * 255 + largest // 2) // largest
    if (key := image.info.get("transparency")) is not None:
        grey[values == key] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _used_bits(image: TiffImagePlugin.TiffImageFile, depth: int) -> int:
    """Return how many bits of each sample are used: 12 of 16 where the file says that 4095 is the largest."""
    largest = image.tag_v2.get(MAX_SAMPLE_VALUE)
    value = largest[0] if isinstance(largest, tuple) else largest
    # At least 8: a dark image is dark. Whole bits: what was found to be the largest is not white.
    return min(max(value.bit_length(), 8), depth) if isinstance(value, int) and value > 0 else depth
