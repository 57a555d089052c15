"""Decode one image file to one 256 x 256 RGB array: the decoding policy, defined only here.

- Formats: BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF, WebP and AVIF by Pillow, HEIF by pillow-heif. Valid files of
  other formats are refused by name as unsupported_format (core/codecs/formats.py), in particular camera raws, whose
  first image is a preview (core/codecs/tiff.py). The first frame of an animation, the first page of a TIFF and the
  primary image of a HEIF are decoded.
- Images are rotated upright by EXIF, or by the container's own rotation in AVIF and HEIF.
- Transparency (RGBA, LA, palette or colour key) is composited on white. A BMP with alpha 0 everywhere is opaque.
- 16-bit grey is scaled to 8 bits, not clipped; a TIFF's MaxSampleValue gives the number of used bits. The samples of a
  PNG use their full bit depth, by its standard; its sBIT is ignored. Nothing else distinguishes 12 bits stored in 16
  from a dark image.
- CMYK and YCCK are converted to RGB by Pillow. 32-bit integer, float and signed pixels have no defined range and are
  refused.
- Wide-gamut colours are converted to sRGB after the resize to 256 x 256; PQ and HLG are refused
  (core/images/profile.py).
- `exact`: all pixels of a JPEG are decoded. `scaled`: a JPEG whose shorter side has 1,024 pixels or more is decoded by
  libjpeg at the smallest of 1/2, 1/4 and 1/8 that keeps 512; its header alone decides. Other formats are not scaled.
- `shorter-side`: the central square, resized to 256 x 256. `warp`: the whole image, resized to 256 x 256.
  Both use Pillow's bilinear filter, which averages over the source area when it shrinks (antialiased), horizontal pass
  first, then vertical. At the square's edges the filter reads pixels outside the square, as if the whole image were
  resized (core/images/resize.py).
- Unsupported formats and sizes over the limits are refused before any pixel is decoded.
- The decoding work is also bounded by the limits (core/codecs/limits.py), not by a timeout, which would give the same
  file different rows. A truncated file is refused whatever Pillow's LOAD_TRUNCATED_IMAGES is (core/codecs/strict.py).

If a change makes a file decode to different pixels, increase DECODING_VERSION (core/model/preprocessing.py).
"""

import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin
from PIL.ExifTags import Base as ExifTag

from alexnet_deploy.core.codecs.formats import ALLOWED_FORMATS, DECODERS, format_of
from alexnet_deploy.core.codecs.heif import HeifFile
from alexnet_deploy.core.codecs.limits import (
    buffer_bytes,
    bytes_per_pixel,
    check_memory,
    check_notes,
    check_work,
    pixel_bytes,
)
from alexnet_deploy.core.codecs.parts import check_parts
from alexnet_deploy.core.codecs.tiff import check_tiff
from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.fs.opening import MIB, open_input
from alexnet_deploy.core.fs.patience import patiently
from alexnet_deploy.core.images.colour import rgb_conversion, scale_colour_key
from alexnet_deploy.core.images.profile import ToSrgb, conversion_of
from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.images.view import RgbView
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, DecodePolicy, ImagePolicy, ResizePolicy
from alexnet_deploy.core.process.memory import MemoryBudget
from alexnet_deploy.core.process.say import counted

__all__ = [
    "ALLOWED_FORMATS",
    "DEFAULT_LIMITS",
    "DecodeLimits",
    "convert_image",
    "decode_image",
    "decode_pixels",
    "read_file",
    "read_image",
    "read_section",
    "refuse_large",
    "reserve_file",
]

Result = TypeVar("Result")
Finish = Callable[[RgbView, ToSrgb | None], Result]

# Pillow's exceptions on damaged files: exactly these were seen in a million mutations of its own test images.
_DAMAGE = (OSError, SyntaxError, ValueError, IndexError, TypeError, OverflowError, RuntimeError, EOFError, struct.error)

# Pillow's messages for a valid header with a pixel layout that it does not support.
_UNKNOWN_LAYOUT = re.compile(r"Unsupported BMP|unknown pixel mode|samples per pixel")

# A JPEG that is decoded at a smaller scale keeps twice the pixels that it is then resized to, or more.
_SCALED_SIDE = 2 * IMAGE_SIZE

_warnings_lock = threading.Lock()
_loading_lock = threading.Lock()

# Shared by all threads: eight photographs of 24 million pixels are decoded at a time, larger ones wait for each other.
_DECODING = MemoryBudget(768 * MIB)
# Of the files themselves, which may be as large as their pixels.
_FILES = MemoryBudget(256 * MIB)
# The threads that hold them are not in a forked process.
os.register_at_fork(after_in_child=_DECODING.release_all)
os.register_at_fork(after_in_child=_FILES.release_all)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """Limits on an image; a larger one is refused from its header."""

    max_pixels: int = 2**28
    """Width times height. The default, 268 million, admits images from 200-megapixel phones.

    There is no upper bound, but a GIF or a WebP is refused above twice Pillow's own limit, Image.MAX_IMAGE_PIXELS.
    """
    max_bytes: int = 256 * 1024 * 1024
    """File size in bytes."""
    max_scans: int = 100
    """Scans of a JPEG: each decodes all pixels again, from as few as 127 bytes. The default is libtiff's own limit.

    All scans together may decode at most 10 times `max_pixels` pixels.
    """

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.max_bytes < 1 or self.max_scans < 1:
            raise UsageError(
                f"limits must be 1 or more, got max_pixels {self.max_pixels}, max_bytes {self.max_bytes} and "
                f"max_scans {self.max_scans}"
            )


DEFAULT_LIMITS = DecodeLimits()


def read_image(path: Path, policy: ImagePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return the image as uint8 (256, 256, 3), RGB, upright; the caller owns the array.

    Every failure raises ImageError with one of its codes.
    """
    with reserve_file(_size_of(path), limits):
        return decode_image(read_file(path, limits), policy, limits)


def reserve_file(num_bytes: int | None, limits: DecodeLimits) -> AbstractContextManager[None]:
    """Wait until a file of this size fits into the memory that files share; it holds its part inside the context.

    A file over the limit, which will be refused, needs nothing; one of unknown size (None) is not counted.
    """
    return _FILES.reserve(num_bytes if num_bytes is not None and num_bytes <= limits.max_bytes else 0)


def decode_image(data: bytes, policy: ImagePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return the image in these bytes (of one file) as uint8 (256, 256, 3), RGB, upright.

    Every failure raises ImageError with one of its codes.
    """
    return _decoded(data, policy.decode, limits, lambda view, conversion: _finished(view, conversion, policy.resize))


def decode_pixels(data: bytes, decode: DecodePolicy = "exact", limits: DecodeLimits = DEFAULT_LIMITS) -> Image.Image:
    """Return the image in these bytes in RGB, upright, before its resize and in its own gamut; raises ImageError."""
    return _decoded(data, decode, limits, lambda view, _: view.whole())


def _decoded(data: bytes, decode: DecodePolicy, limits: DecodeLimits, finish: Finish[Result]) -> Result:
    if not data:
        raise ImageError(ImageErrorCode.EMPTY, "the file has no bytes")
    _check_num_bytes(len(data), limits)
    try:
        return _decode(data, decode, limits, finish)
    except Warning:
        # The caller's filters turn warnings into errors. Pillow warns about broken metadata and still decodes the
        # pixels; so do we. Only here, and under a lock: catch_warnings is not thread-safe before Python 3.14.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, decode, limits, finish)


def convert_image(image: Image.Image, policy: ImagePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return a PIL image as uint8 (256, 256, 3), RGB, upright: the same pixels as from the bytes of its file.

    Pixels that Pillow has not read yet are read from the image's current frame; the image is not changed otherwise.
    The caller is responsible for the format, the decoding work, and truncated files if LOAD_TRUNCATED_IMAGES is set.
    Differences from a file: a JPEG is not scaled, also under `scaled`; Pillow drops the cICP chunk of a PNG and the
    nclx box of an AVIF, so wide gamut or HDR is only known from an ICC profile; and a PNG whose pixels were read before
    has lost the bit depth of its colour key, so with 2, 4 or 16 bits per sample the key may match no pixel. Raises
    ImageError.
    """
    if not image.width or not image.height:
        raise ImageError(ImageErrorCode.EMPTY, f"an image of {image.width} x {image.height} has no pixels")
    refuse_large(image.width, image.height, limits)
    try:
        # Pillow's load is not thread-safe, and the same image may be passed twice.
        with _loading_lock:
            depth = _unread_png_depth(image)
            image.load()
        if depth is not None and "transparency" in image.info:
            image = image.copy()
            scale_colour_key(image, depth)
        return _finished(_upright(image), conversion_of(image, b""), policy.resize)
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(ImageErrorCode.TOO_LARGE, str(error) or "no memory to decode it in") from error
    except _DAMAGE as error:
        raise ImageError(ImageErrorCode.TRUNCATED, f"{image.format or image.mode}: cannot be read: {error}") from error


def read_file(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Return the bytes of one image file; raises ImageError (missing, unreadable, too_large).

    Transient file system errors are retried (core/fs/patience.py).
    """

    def read() -> bytes:
        # At most the reported size: a file in /proc reports 0 bytes and may never end.
        with open_input(path) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            _check_num_bytes(num_bytes, limits)
            if not num_bytes:
                _check_empty(file.fileno())
            return file.read(num_bytes)

    try:
        return patiently(read)
    except FileNotFoundError as error:
        raise ImageError(ImageErrorCode.MISSING, "there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(ImageErrorCode.UNREADABLE, reason) from error


def _size_of(path: Path) -> int | None:
    """Return the size of a file in bytes; None for one that read_file will refuse."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a plain string is a path too
    except (OSError, ValueError):
        return None


def _check_empty(descriptor: int) -> None:
    """Raise ImageError (unreadable) for a file that reports 0 bytes and is not empty: one of the kernel's, in /proc."""
    try:
        # Opened with O_NONBLOCK, so it does not wait for a byte.
        held = os.read(descriptor, 1)
    except OSError as error:
        raise ImageError(ImageErrorCode.UNREADABLE, f"{error.strerror}; it is not a stored file") from error
    if held:
        raise ImageError(ImageErrorCode.UNREADABLE, "it reports 0 bytes but holds some; it is not a stored file")


def read_section(path: Path, offset: int, num_bytes: int, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Return `num_bytes` of a file from `offset` on: an image inside an archive.

    Raises ImageError (missing, unreadable, too_large; truncated if the file ends before the image does).
    """
    _check_num_bytes(num_bytes, limits)

    def read() -> bytes:
        with open_input(path) as file:
            file.seek(offset)
            return file.read(num_bytes)

    try:
        data = patiently(read)
    except FileNotFoundError as error:
        raise ImageError(ImageErrorCode.MISSING, f"there is no {path}") from error
    except OSError as error:
        raise ImageError(ImageErrorCode.UNREADABLE, error.strerror or str(error)) from error
    if len(data) < num_bytes:
        raise ImageError(ImageErrorCode.TRUNCATED, f"{path} ends before the image does")
    return data


def refuse_large(width: int, height: int, limits: DecodeLimits) -> None:
    """Raise ImageError (too_large) if width times height is over the limit."""
    if width * height > limits.max_pixels:
        raise ImageError(
            ImageErrorCode.TOO_LARGE,
            f"{width} x {height} is {width * height:,} pixels, the limit is {limits.max_pixels:,}; raise it with "
            f"--max-pixels of predict and serve, or DecodeLimits(max_pixels={width * height})",
        )


def _finished(view: RgbView, conversion: ToSrgb | None, resize: ResizePolicy) -> np.ndarray:
    square = to_square(view, resize)
    return square if conversion is None else conversion.apply(square)


def _check_num_bytes(num_bytes: int, limits: DecodeLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise ImageError(
            ImageErrorCode.TOO_LARGE,
            f"{counted(num_bytes, 'byte')}, the limit is {limits.max_bytes:,}; raise it with "
            f"DecodeLimits(max_bytes={num_bytes})",
        )


def _decode(data: bytes, decode: DecodePolicy, limits: DecodeLimits, finish: Finish[Result]) -> Result:
    """Return the result of `finish` for the first frame, upright, in its own size."""
    name = format_of(data)
    check_parts(name, data)
    check_notes(name, data)
    if name == "TIFF":
        check_tiff(data)
    try:
        if name == "HEIF":
            return _decode_heif(data, limits, finish)
        image = DECODERS[name](io.BytesIO(data))
        refuse_large(image.width, image.height, limits)
        buffers = buffer_bytes(image, data)
        check_memory(pixel_bytes(image) + buffers, max_pixels=limits.max_pixels)
        check_work(image, data, max_pixels=limits.max_pixels, max_scans=limits.max_scans)
        scale = _scale_of(image) if decode == "scaled" else 1
        with _DECODING.reserve(pixel_bytes(image, scale) + buffers):
            try:
                return _loaded(image, data, scale, finish)
            finally:
                # Its memory is free before it counts as free.
                del image
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(ImageErrorCode.TOO_LARGE, str(error) or "no memory to decode it in") from error
    except _DAMAGE as error:
        # libheif's messages end with a line break.
        words = " ".join(str(error).split())
        if _UNKNOWN_LAYOUT.search(words):
            raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{name}: {words}") from error
        raise ImageError(ImageErrorCode.TRUNCATED, f"{name}: ends early or is damaged: {words}") from error


def _loaded(image: ImageFile.ImageFile, data: bytes, scale: int, finish: Finish[Result]) -> Result:
    depth, size = _unread_png_depth(image), image.size
    if scale > 1:
        # Pillow takes the largest scale that keeps the requested size.
        image.draft(None, (size[0] // scale, size[1] // scale))
    image.load()
    if depth is not None:
        scale_colour_key(image, depth)
    conversion = conversion_of(image, data)
    return finish(_upright(image, scale, size), conversion)


def _scale_of(image: ImageFile.ImageFile) -> int:
    """Return 2, 4 or 8 for a large JPEG, to be decoded at a half, a quarter or an eighth; 1 for all other images."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    return next(scale for scale in (8, 4, 2, 1) if min(image.size) >= scale * _SCALED_SIDE or scale == 1)


def _decode_heif(data: bytes, limits: DecodeLimits, finish: Finish[Result]) -> Result:
    file = HeifFile(data)
    refuse_large(*file.size, limits)
    num_bytes = file.size[0] * file.size[1] * bytes_per_pixel("HEIF", "RGB")
    check_memory(num_bytes, max_pixels=limits.max_pixels)
    with _DECODING.reserve(num_bytes):
        return _loaded_heif(file, data, limits, finish)


def _loaded_heif(file: HeifFile, data: bytes, limits: DecodeLimits, finish: Finish[Result]) -> Result:
    image = file.load()
    # The coded image may have another size than the container states.
    refuse_large(*image.size, limits)
    return finish(RgbView(image=image, convert=rgb_conversion(image)), conversion_of(image, data))


def _orientation(image: Image.Image) -> int:
    try:
        orientation: int = image.getexif().get(ExifTag.Orientation, 1)
    except _DAMAGE:
        # The pixels are decoded; broken EXIF data does not make them unusable.
        return 1
    return orientation


def _upright(image: Image.Image, scale: int = 1, stored_size: tuple[int, int] | None = None) -> RgbView:
    return RgbView(
        image=image,
        convert=rgb_conversion(image),
        orientation=_orientation(image),
        scale=scale,
        stored_size=stored_size,
    )


def _unread_png_depth(image: Image.Image) -> int | None:
    """Return a PNG's bits per sample, None if its pixels have been read: Pillow keeps the depth only until then."""
    if not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile:
        return None
    # The raw mode: L;2, L;4, RGB;16B; no number means 8.
    depth = re.search(r";(\d+)", str(image.tile[0].args))
    return int(depth[1]) if depth else 8
