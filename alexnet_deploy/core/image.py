"""One picture file to one 256 x 256 RGB array: the decoding policy, and the only place that has one.

- Upright by EXIF. The first frame of an animation. ICC profiles are ignored.
- Transparency (RGBA, LA, palette or colour key) is laid over white.
- 16-bit grey is scaled to 8 bits, not clipped. CMYK and YCCK become RGB as Pillow converts them.
- 32-bit integer and float pixels have no defined range, and are refused.
- `shorter-side`: the central square, brought to 256 x 256. `warp`: the whole picture, brought to 256 x 256.
  Both by Pillow's bilinear filter, which averages over the source area when it shrinks (antialiased).
- Refused from the header, before any pixel is decoded: formats outside ALLOWED_FORMATS, and sizes over the limits.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.preprocessing import IMAGE_SIZE, ResizePolicy

ALLOWED_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# What Pillow's decoders raise on damaged pixels, found by feeding them its own corpus of broken files.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
)

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """How large a picture may be before it is refused from its header."""

    max_pixels: int = 89_478_485
    """Width times height. The default is Pillow's own limit."""
    max_bytes: int = 256 * 1024 * 1024
    """The file's size."""

    def __post_init__(self) -> None:
        ceiling = 2 * (Image.MAX_IMAGE_PIXELS or self.max_pixels)
        if not 1 <= self.max_pixels <= ceiling:
            raise UsageError(f"a limit of {self.max_pixels:,} pixels lies outside Pillow's own, 1 to {ceiling:,}")
        if self.max_bytes < 1:
            raise UsageError(f"a limit of {self.max_bytes} bytes admits no file")


DEFAULT_LIMITS = DecodeLimits()


def read_image(path: Path, resize: ResizePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return the picture as uint8 (256, 256, 3), RGB, upright; the array is the caller's.

    Raises ImageError, with one of its codes, for anything that stands in the way.
    """
    return decode_image(_read(path, limits), resize, limits)


def decode_image(data: bytes, resize: ResizePolicy, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Return the picture in these bytes (of one file) as uint8 (256, 256, 3), RGB, upright.

    Raises ImageError, with one of its codes, for anything that stands in the way.
    """
    if not data:
        raise ImageError(ImageErrorCode.EMPTY, "the file has no bytes")
    with _open(data, limits) as image:
        try:
            image.load()
            rgb = _to_rgb(_upright(image))
        except _DAMAGE as error:
            raise ImageError(ImageErrorCode.TRUNCATED, f"{image.format}: its pixels are damaged: {error}") from error
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.array(rgb.resize(size, Image.Resampling.BILINEAR, box=_source_box(rgb.width, rgb.height, resize)))


def _read(path: Path, limits: DecodeLimits) -> bytes:
    try:
        # A pipe or a device would block or never end.
        if not path.is_file() and path.exists():
            raise ImageError(ImageErrorCode.UNREADABLE, "it is not a regular file")
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(ImageErrorCode.MISSING, "there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(ImageErrorCode.UNREADABLE, reason) from error
    if len(data) > limits.max_bytes:
        raise ImageError(ImageErrorCode.TOO_LARGE, f"over {limits.max_bytes:,} bytes, the limit")
    return data


def _open(data: bytes, limits: DecodeLimits) -> Image.Image:
    """Return the picture with its header read and its size checked, no pixel decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(ImageErrorCode.TOO_LARGE, f"more pixels than the limit of {limits.max_pixels:,}") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except _DAMAGE as error:
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, f"its header cannot be read: {error}") from error
    if image.width * image.height > limits.max_pixels:
        image.close()
        found = f"{image.width} x {image.height} is {image.width * image.height:,} pixels"
        raise ImageError(ImageErrorCode.TOO_LARGE, f"{found}, the limit is {limits.max_pixels:,}")
    return image


def _unidentified(data: bytes) -> ImageError:
    # Only the signatures are compared: no decoder outside the allow-list sees the file.
    Image.init()
    prefix = data[:16].ljust(16, b"\0")
    for name, (_, accepts) in Image.OPEN.items():
        if name not in ALLOWED_FORMATS and accepts is not None and accepts(prefix) is True:
            return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{name} is not among {', '.join(ALLOWED_FORMATS)}")
    return ImageError(ImageErrorCode.NOT_AN_IMAGE, "no decoder knows its header")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTag.Orientation, 1)
    except _DAMAGE:
        # The pixels decoded; a camera's broken notes about them do not make them unusable.
        return image
    method = _TRANSPOSITIONS.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _scaled_grey(image)
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{image.mode} pixels have no defined range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    # Pillow's convert("RGB") saturates 16-bit grey: 127.5 comes out as 254.5.
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _source_box(width: int, height: int, resize: ResizePolicy) -> tuple[float, float, float, float]:
    if resize == "warp":
        return (0.0, 0.0, float(width), float(height))
    # Resizing the central square, not cropping the resized whole: no rounding of the longer side, and a picture
    # of 1 x 1,000,000 does not become one of 256 x 256,000,000 on the way.
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)
