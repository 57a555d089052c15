"""One picture file to one 256 x 256 RGB array: the decoding policy, and the only place that has one.

- Upright by EXIF. The first frame of an animation. ICC profiles are ignored.
- Transparency (RGBA, LA, palette or colour key) is laid over white.
- 16-bit grey is scaled to 8 bits, not clipped. CMYK and YCCK become RGB as Pillow converts them.
- 32-bit integer and float pixels have no defined range, and are refused.
- `shorter-side`: the central square, brought to 256 x 256. `warp`: the whole picture, brought to 256 x 256.
  Both by Pillow's bilinear filter, which averages over the source area when it shrinks (antialiased), and at the
  square's edges reads past them, as it would when the whole picture is resized.
- Refused before any pixel is decoded: formats outside ALLOWED_FORMATS, and sizes over the limits.
- The work is bounded by the limits too (see core/work.py), not by a clock, which would give the same file different
  rows.
"""

import io
import os
import re
import struct
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ExifTags import Base as ExifTag

from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.preprocessing import ResizePolicy
from alexnet_deploy.core.resize import to_square
from alexnet_deploy.core.work import check_notes, check_work

# Pillow's classes, not Image.open: it would warn of sizes that are ours to judge, and hide why a header failed.
_DECODERS: dict[str, tuple[re.Pattern[bytes], type[ImageFile.ImageFile]]] = {
    # Two letters may begin any text: the size of the header that follows them is part of the signature.
    "BMP": (re.compile(rb"(?s)BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"), BmpImagePlugin.BmpImageFile),
    "GIF": (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    "JPEG": (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "PPM": (re.compile(rb"P[1-6f]\s+[\d#]"), PpmImagePlugin.PpmImageFile),
    "TIFF": (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    "WEBP": (re.compile(rb"(?s)RIFF.{4}WEBP"), WebPImagePlugin.WebPImageFile),
}

ALLOWED_FORMATS = tuple(_DECODERS)

# What Pillow raises on damaged files: each was seen, and nothing else, in a million mutations of its own test pictures.
_DAMAGE = (OSError, SyntaxError, ValueError, IndexError, TypeError, OverflowError, struct.error)

# Pillow's words for a header that it understood and a layout of pixels that it does not.
_UNKNOWN_LAYOUT = re.compile(r"Unsupported BMP|unknown pixel mode|samples per pixel")

# What phones write, and Pillow does not read everywhere.
_HEIF_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_warnings_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """How large a picture may be before it is refused from its header."""

    max_pixels: int = 89_478_485
    """Width times height. The default is Pillow's own limit."""
    max_bytes: int = 256 * 1024 * 1024
    """The file's size."""
    max_scans: int = 100
    """Of a JPEG: each goes over all pixels again, and may be 127 bytes long. The default is libtiff's own limit.

    In all together they may go over 20 times `max_pixels`.
    """

    def __post_init__(self) -> None:
        ceiling = 2 * (Image.MAX_IMAGE_PIXELS or self.max_pixels)
        if not 1 <= self.max_pixels <= ceiling:
            raise UsageError(f"a limit of {self.max_pixels:,} pixels lies outside Pillow's own, 1 to {ceiling:,}")
        if self.max_bytes < 1 or self.max_scans < 1:
            raise UsageError(f"limits of {self.max_bytes} bytes and {self.max_scans} scans admit no file")


DEFAULT_LIMITS = DecodeLimits()


def read_image(path: Path, resize: ResizePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return the picture as uint8 (256, 256, 3), RGB, upright; the array is the caller's.

    Raises ImageError, with one of its codes, for anything that stands in the way.
    """
    return decode_image(read_file(path, limits), resize, limits)


def decode_image(data: bytes, resize: ResizePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return the picture in these bytes (of one file) as uint8 (256, 256, 3), RGB, upright.

    Raises ImageError, with one of its codes, for anything that stands in the way.
    """
    return to_square(decode_pixels(data, limits), resize)


def decode_pixels(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Image.Image:
    """Return the picture in these bytes in RGB, upright, in its own size; raises ImageError."""
    if not data:
        raise ImageError(ImageErrorCode.EMPTY, "the file has no bytes")
    _check_num_bytes(len(data), limits)
    try:
        return _decode(data, limits)
    except Warning:
        # The caller's filters turn warnings into errors. Pillow warns of broken notes beside the pixels, and decodes
        # on; so do we. Only here, and under a lock: catch_warnings is not thread-safe before Python 3.14.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, limits)


def read_file(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Return the bytes of one picture file; raises ImageError (missing, unreadable, too_large)."""
    try:
        # A pipe or a device would block or never end.
        if not path.is_file() and path.exists():
            raise ImageError(ImageErrorCode.UNREADABLE, "it is not a regular file")
        with path.open("rb") as file:
            _check_num_bytes(os.fstat(file.fileno()).st_size, limits)
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(ImageErrorCode.MISSING, "there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(ImageErrorCode.UNREADABLE, reason) from error


def read_section(path: Path, offset: int, num_bytes: int, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Return `num_bytes` of a file from `offset` on, where a picture lies in an archive.

    Raises ImageError (missing, unreadable, too_large; truncated where the file ends before the picture does).
    """
    _check_num_bytes(num_bytes, limits)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(num_bytes)
    except FileNotFoundError as error:
        raise ImageError(ImageErrorCode.MISSING, f"there is no {path}") from error
    except OSError as error:
        raise ImageError(ImageErrorCode.UNREADABLE, error.strerror or str(error)) from error
    if len(data) < num_bytes:
        raise ImageError(ImageErrorCode.TRUNCATED, f"{path} ends within it")
    return data


def _check_num_bytes(num_bytes: int, limits: DecodeLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise ImageError(ImageErrorCode.TOO_LARGE, f"{num_bytes:,} bytes, the limit is {limits.max_bytes:,}")


def _decode(data: bytes, limits: DecodeLimits) -> Image.Image:
    """Return the first frame in RGB, upright, in its own size."""
    name = _format_of(data)
    decoder = _DECODERS[name][1]
    check_notes(name, data)
    try:
        with decoder(io.BytesIO(data)) as image:
            num_pixels = image.width * image.height
            if num_pixels > limits.max_pixels:
                found = f"{image.width} x {image.height} is {num_pixels:,} pixels"
                raise ImageError(ImageErrorCode.TOO_LARGE, f"{found}, the limit is {limits.max_pixels:,}")
            check_work(image, data, max_pixels=limits.max_pixels, max_scans=limits.max_scans)
            image.load()
            if name == "PNG":
                # The header is the first chunk and the depth its ninth byte.
                _scale_colour_key(image, depth=data[24])
            return _upright(_to_rgb(image), _orientation(image))
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(ImageErrorCode.TOO_LARGE, str(error) or "no memory to decode it in") from error
    except _DAMAGE as error:
        if _UNKNOWN_LAYOUT.search(str(error)):
            raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{name}: {error}") from error
        raise ImageError(ImageErrorCode.TRUNCATED, f"{name}: ends early or is damaged: {error}") from error


def _format_of(data: bytes) -> str:
    for name, (signature, _) in _DECODERS.items():
        if signature.match(data):
            return name
    # Only signatures are compared: no decoder outside the allow-list sees the file.
    Image.init()
    prefix = data[:16].ljust(16, b"\0")
    found = ["HEIF or AVIF"] if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS else []
    found += [name for name, (_, accepts) in Image.OPEN.items() if accepts is not None and accepts(prefix) is True]
    other = next((name for name in found if name not in _DECODERS), None)
    if other is None:
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, "no decoder knows its header")
    raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{other} is not among {', '.join(ALLOWED_FORMATS)}")


def _orientation(image: Image.Image) -> int:
    try:
        orientation: int = image.getexif().get(ExifTag.Orientation, 1)
    except _DAMAGE:
        # The pixels decoded; a camera's broken notes about them do not make them unusable.
        return 1
    return orientation


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSITIONS.get(orientation)
    return image if method is None else image.transpose(method)


def _scale_colour_key(image: Image.Image, depth: int) -> None:
    # Pillow brings the pixels to 8 bits and leaves the key at the file's depth: no pixel would match it.
    key = image.info.get("transparency")
    if depth in (2, 4) and image.mode == "L" and isinstance(key, int):
        largest = 2**depth - 1
        image.info["transparency"] = (key & largest) * 255 // largest
    elif depth == 16 and image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "P" and image.palette is None:
        raise ImageError(ImageErrorCode.TRUNCATED, "its palette is missing")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _scaled_grey(image)
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{image.mode} pixels have no defined range")
    if image.has_transparency_data:
        # Pillow converts premultiplied grey in two steps only.
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    # Pillow's convert("RGB") saturates 16-bit grey: 127.5 comes out as 254.5.
    values = np.asarray(image).astype(np.uint32)
    largest = 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow hands over 12 bits unscaled, and 16 bits where zero is white uninverted.
        largest = 2 ** image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0:
            values = largest - values
    grey = (values * 255 + largest // 2) // largest
    if (key := image.info.get("transparency")) is not None:
        grey[values == key] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
