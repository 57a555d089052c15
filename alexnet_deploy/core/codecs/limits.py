"""Limits on decoding work: small files that would keep a decoder busy for minutes are refused before decoding.

The limits on bytes and pixels bound most of the work, which is linear in them. This module bounds the rest: loops in
Pillow, libtiff and libjpeg that are quadratic, or that process the same pixels as often as a header asks for. Each
limit covers a case that took over 5 seconds per megabyte, and is far above what cameras and programs write.
"""

import re
import struct
from itertools import pairwise

from PIL import ImageFile, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    FILLORDER,
    IMAGELENGTH,
    IMAGEWIDTH,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEWIDTH,
)

from alexnet_deploy.core.codecs.parts import check_count, first_scan
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

# Markers of segments and of the image's end: in the coded pixels of a scan, 0xff is followed by 0 or a restart only.
_JPEG_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")

# All pixels of the largest image 10 times: with arithmetic coding, 10 times 134 million take a second.
_MAX_SCANNED = 10

# Pillow concatenates each EXIF segment with all previous ones.
_MAX_JPEG_NOTES = 256

# Each may decompress to a megabyte.
_MAX_PNG_NOTES = 256

# For each comment Pillow copies the megabyte block around it.
_MAX_PPM_COMMENTS = 10_000

# Pillow decodes these values in Python, one at a time: 1 to 1.6 microseconds each.
_MAX_VALUES_IN_PYTHON = 2**22

# Memory that one image may need while it is decoded: this, or 4 bytes for each of `max_pixels` if that is more.
_MAX_MEMORY = 2**30
_BYTES_PER_PIXEL = 4

# Peak memory per pixel of Pillow's and libheif's decoders, measured with the most expensive layout; for deeper samples
# of AVIF it is an estimate.
_DECODER_BYTES = {"WEBP": 16, "AVIF": 16, "HEIF": 16, "JPEG2000": 20}

# Bytes per pixel of Pillow's modes; the others need 4.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}

# A JPEG 2000 pixel takes several times as long as any other, and 562 bytes may hold 30 million.
_MAX_JPEG2000 = 2**25
_JPEG2000_COST = 8

# struct formats of a TIFF's number types: short and long.
_NUMBERS = {3: "H", 4: "L"}


def check_notes(name: str, data: bytes) -> None:
    """Refuse a file with too many metadata blocks, before its decoder reads it.

    Raises ImageError (too_large).
    """
    if name == "JPEG":
        check_count(data.count(b"Exif\0\0"), _MAX_JPEG_NOTES, "EXIF segments")
    elif name == "PNG":
        check_count(sum(data.count(kind) for kind in (b"iCCP", b"iTXt", b"zTXt")), _MAX_PNG_NOTES, "compressed chunks")
    elif name == "PPM" and data[1:2] in b"123":
        check_count(data.count(b"#"), _MAX_PPM_COMMENTS, "comments")


def check_work(image: ImageFile.ImageFile, data: bytes, *, max_pixels: int, max_scans: int) -> None:
    """Refuse an image whose decoder would process its pixels too often; uses the header, `image` is not loaded yet.

    Raises ImageError (too_large, truncated).
    """
    num_pixels = image.width * image.height
    if image.format == "JPEG":
        _check_scans(data, min(max_scans, _MAX_SCANNED * max_pixels // num_pixels))
    elif image.format == "JPEG2000":
        check_count(num_pixels, max(_MAX_JPEG2000, max_pixels // _JPEG2000_COST), "pixels of JPEG 2000")
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, data, max_pixels)
    elif image.tile and image.tile[0].codec_name in ("bmp_rle", "ppm", "ppm_plain"):
        what = "run-length coded pixels" if image.format == "BMP" else "values of a pixmap that is not of 8-bit bytes"
        check_count(num_pixels * len(image.getbands()), _MAX_VALUES_IN_PYTHON, what)


def pixel_bytes(image: ImageFile.ImageFile, scale: int = 1) -> int:
    """Return the memory in bytes that an image's pixels need while they are decoded; `image` is not loaded yet.

    `scale` is that of a JPEG: 2, 4 or 8 if it is decoded at a half, a quarter or an eighth.
    """
    return image.width * image.height * bytes_per_pixel(image.format or "", image.mode) // scale**2


def buffer_bytes(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the memory in bytes that a decoder needs beside the pixels; `image` is not loaded yet.

    The coefficients of a JPEG of several scans, or one strip or tile of a compressed TIFF; 0 for others. Raises
    ImageError (truncated) for a TIFF whose tiles have no clear size.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _strip_bytes(image, data)
    return _coefficient_bytes(image) if image.format == "JPEG" and _has_several_scans(image, data) else 0


def _coefficient_bytes(image: ImageFile.ImageFile) -> int:
    parts = image.layer[-image.layers :]  # type: ignore[attr-defined]
    widest, highest = max(max(part[1] for part in parts), 1), max(max(part[2] for part in parts), 1)
    samples: float = image.width * image.height * sum(part[1] * part[2] for part in parts) / (widest * highest)
    return round(2 * samples)


def _strip_bytes(image: TiffImagePlugin.TiffImageFile, data: bytes) -> int:
    # libtiff decodes a strip as a whole, and many programs write an image as one strip.
    if not image.tile or image.tile[0].codec_name != "libtiff":
        return 0
    width, height = _tile_side(image, data, TILEWIDTH), _tile_side(image, data, TILELENGTH)
    if not (width and height):
        width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        rows = image.tag_v2.get(ROWSPERSTRIP)
        height = min(rows, height) if isinstance(rows, int) else height
    bits = image.tag_v2.get(BITSPERSAMPLE, (1,))
    if image.tag_v2.get(PLANAR_CONFIGURATION) == 2:
        bits = bits[:1]
    elif len(bits) == 1:
        bits = bits * image.tag_v2.get(SAMPLESPERPIXEL, 1)
    return -(-width * sum(bits) // 8) * height


def bytes_per_pixel(name: str, mode: str) -> int:
    """Return the memory that decoding needs for each pixel of a format and mode, without buffer_bytes."""
    return _DECODER_BYTES.get(name, _MODE_BYTES.get(mode, 4))


def check_memory(num_bytes: int, *, max_pixels: int) -> None:
    """Refuse an image whose decoder needs more memory than 1 GiB, or 4 bytes for each of `max_pixels` if that is more.

    Raises ImageError (too_large).
    """
    largest = max(_MAX_MEMORY, max_pixels * _BYTES_PER_PIXEL)
    if num_bytes > largest:
        raise ImageError(
            ImageErrorCode.TOO_LARGE,
            f"its decoder needs {num_bytes:,} bytes of memory, the limit is {largest:,}; raise it with --max-pixels of "
            f"predict and serve, or DecodeLimits(max_pixels={-(-num_bytes // _BYTES_PER_PIXEL)})",
        )


def _has_several_scans(image: ImageFile.ImageFile, data: bytes) -> bool:
    if "progressive" in image.info:
        return True
    scan = first_scan(data)
    # The number of components follows the first scan's length: a scan with all components is the only one.
    return data[scan + 2 : scan + 3] != bytes([image.layers])  # type: ignore[attr-defined]


def _check_scans(data: bytes, max_scans: int) -> None:
    # Walking the segments takes a fifth of a photograph's decoding time; counting two bytes takes almost none.
    if data.count(b"\xff\xda") <= max_scans:
        return
    num_scans, position = 0, 2
    # Up to the image's end: a phone's video with arbitrary bytes may follow.
    while (marker := _JPEG_MARKER.search(data, position)) is not None and marker[1] != b"\xd9":
        num_scans += marker[1] == b"\xda"
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    check_count(num_scans, max_scans, "scans")


def _check_tiles(image: TiffImagePlugin.TiffImageFile, data: bytes, max_pixels: int) -> None:
    # Compressed tiles are decompressed completely, even if only a small part lies inside the image.
    width, height = _tile_side(image, data, TILEWIDTH), _tile_side(image, data, TILELENGTH)
    if width and height:
        across, down = -(-image.tag_v2[IMAGEWIDTH] // width), -(-image.tag_v2[IMAGELENGTH] // height)
        check_count(across * width * down * height, 2 * max_pixels, "pixels of tiles")
    if image.tag_v2.get(FILLORDER, 1) == 2:
        # libtiff reverses the bits of each strip's stated byte count, separately for each strip.
        counts = image.tag_v2.get(STRIPBYTECOUNTS, image.tag_v2.get(TILEBYTECOUNTS, ()))
        check_count(sum(counts if isinstance(counts, tuple) else (counts,)), 16 * len(data), "bytes of strips")
    tiles = sorted(
        (tile.offset, tile.extents[2] - tile.extents[0], tile.extents[3] - tile.extents[1])
        for tile in image.tile
        if tile.extents is not None
    )
    # Uncompressed strips are read as often as they are listed; each band may have separate tiles.
    check_count(sum(width * height for _, width, height in tiles), 5 * max_pixels, "pixels of strips")
    # Pillow reads up to the start of the next strip, again and again, and joins the pieces until it has a row.
    for (start, width, _), (following, _, _) in pairwise(tiles):
        if 0 < 8 * (following - start) < width:
            raise ImageError(ImageErrorCode.TRUNCATED, "TIFF: its strips overlap")


def _tile_side(image: TiffImagePlugin.TiffImageFile, data: bytes, side: int) -> int:
    """Return the tiles' width or height, 0 if there are no tiles; read from the bytes, as libtiff does.

    Pillow skips tags of some types that libtiff reads.
    """
    order = "<" if image.tag_v2.prefix == b"II" else ">"
    number, entry = ("Q", "HHQ8s") if data[2] == 43 else ("H", "HHL4s")
    start = (image.tag_v2.offset or 0) + struct.calcsize(f"{order}{number}")
    (num_entries,) = struct.unpack_from(f"{order}{number}", data, image.tag_v2.offset or 0)
    size = struct.calcsize(f"{order}{entry}")
    # The directory may be truncated by the file's end.
    num_entries = min(num_entries, (len(data) - start) // size)
    largest = 0
    for tag, kind, count, value in struct.iter_unpack(f"{order}{entry}", data[start : start + size * num_entries]):
        if tag == side:
            if kind not in _NUMBERS or count != 1:
                raise ImageError(ImageErrorCode.TRUNCATED, "TIFF: the size of its tiles is not a number")
            largest = max(largest, struct.unpack_from(f"{order}{_NUMBERS[kind]}", value)[0])
    return largest
