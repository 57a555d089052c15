"""Images as bytes, made by hand or by Pillow, and the results of decoding them."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.images.decode import ALLOWED_FORMATS, DEFAULT_LIMITS, DecodeLimits, decode_image, read_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP, ImagePolicy

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


# Only for saving: decoding must not depend on this registration.
Image.register_save("HEIF", pillow_heif.as_plugin._save_heif)

LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


POLICIES = (SHORTER_SIDE, WARP)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, raster: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(raster))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def tiff(bits: tuple[int, ...], raster: bytes, photometric: int = 1, **tags: int | tuple[int, ...]) -> bytes:
    """Return a TIFF of one strip and one row, as wide as its raster, unless tags (such as t322=16) change that."""
    width = len(raster) * 8 // sum(bits)
    entries = {256: (width,), 257: (1,), 258: bits, 259: (1,), 262: (photometric,), 277: (len(bits),), 278: (1,)}
    entries |= {273: (400,), 279: (len(raster),)} | {
        int(tag[1:]): value if isinstance(value, tuple) else (value,) for tag, value in tags.items()
    }
    ifd, beside = struct.pack("<H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, beside = struct.pack("<I", 300 + len(beside)), beside + packed
        ifd += struct.pack("<HHI4s", tag, 3, len(values), packed)
    return (b"II*\0\x08\0\0\0" + ifd + bytes(4)).ljust(300, b"\0") + beside.ljust(100, b"\0") + raster


def outcome(data: bytes, limits: DecodeLimits) -> np.ndarray | ImageErrorCode:
    try:
        return decode_image(data, WARP, limits)
    except ImageError as error:
        return error.code


def code_of(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        decode_image(data, WARP, limits)
    return caught.value.code


def read_code(path: Path) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        read_image(path, WARP)
    return caught.value.code


def colour_of(data: bytes, policy: ImagePolicy = WARP) -> tuple[int, ...]:
    """Return the colour of an image that has only one colour."""
    pixels = decode_image(data, policy).reshape(-1, 3)
    assert (pixels == pixels[0]).all()
    return tuple(pixels[0].tolist())


IMAGES = {name: encode(Image.fromarray(noise(64, 64)), name) for name in ALLOWED_FORMATS}

QUADRANTS = np.kron([[[200, 30, 30], [30, 160, 40]], [[40, 40, 190], [220, 220, 60]]], np.ones((128, 128, 1))).astype(
    np.uint8
)
