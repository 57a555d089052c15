"""What an image file may cost to decode: small files that would keep a decoder busy for minutes are refused undecoded.

The limits on bytes and pixels bound most of the work, as it grows with the one or the other. Here stands what does
not: loops within Pillow, libtiff and libjpeg whose work grows with the square of something, or that go over the same
pixels as often as a header says. What took over 5 seconds for a megabyte was sought, and bounded far beyond what
cameras and programs write.
"""

import re
import struct
from itertools import pairwise

from PIL import ImageFile, TiffImagePlugin
from PIL.TiffImagePlugin import (
    FILLORDER,
    IMAGELENGTH,
    IMAGEWIDTH,
    STRIPBYTECOUNTS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEWIDTH,
)

from alexnet_deploy.core.codecs.parts import check_count, first_scan
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

# Those that begin a segment, and the end: among the coded pixels of a scan 0xff stands only before 0 and restarts.
_JPEG_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")

# All pixels of the largest image 20 times: arithmetic coding takes a second for 10 times.
_MAX_SCANNED = 20

# Each is joined to those before it.
_MAX_JPEG_NOTES = 256

# Each may unpack to a megabyte.
_MAX_PNG_NOTES = 256

# For each the block of a megabyte around it is copied.
_MAX_PPM_COMMENTS = 10_000

# Pillow decodes them in Python, one at a time: 1 to 1.6 microseconds each.
_MAX_VALUES_IN_PYTHON = 2**22

# What an image may take while it is decoded: 1 GiB for the default of `max_pixels`.
_BYTES_PER_PIXEL = 8

# What Pillow's and libheif's decoders take for a pixel at their peak, measured with the dearest layout; deeper samples
# of AVIF were not, and are reckoned in. The others take 4.
_DECODER_BYTES = {"WEBP": 16, "AVIF": 16, "HEIF": 16}

# It takes several times as long for a pixel as any other, and 562 bytes may hold 30 million.
_JPEG2000_COST = 4

# Of a TIFF's tags, by the number of their type: short and long.
_NUMBERS = {3: "H", 4: "L"}


def check_notes(name: str, data: bytes) -> None:
    """Refuse, before the format's decoder looks at it, a file of more notes beside its pixels than any has.

    Raises ImageError (too_large).
    """
    if name == "JPEG":
        check_count(data.count(b"Exif\0\0"), _MAX_JPEG_NOTES, "EXIF segments")
    elif name == "PNG":
        check_count(sum(data.count(kind) for kind in (b"iCCP", b"iTXt", b"zTXt")), _MAX_PNG_NOTES, "compressed chunks")
    elif name == "PPM" and data[1:2] in b"123":
        check_count(data.count(b"#"), _MAX_PPM_COMMENTS, "comments")


def check_work(image: ImageFile.ImageFile, data: bytes, *, max_pixels: int, max_scans: int) -> None:
    """Refuse, from its header, an image over whose pixels its decoder would go too often; `image` is not loaded yet.

    Raises ImageError (too_large, truncated).
    """
    num_pixels = image.width * image.height
    check_memory(image.format or "", num_pixels, max_pixels=max_pixels)
    if image.format == "JPEG":
        _check_coefficients(image, data, max_pixels)
        _check_scans(data, min(max_scans, _MAX_SCANNED * max_pixels // num_pixels))
    elif image.format == "JPEG2000":
        check_count(num_pixels, max_pixels // _JPEG2000_COST, "pixels of JPEG 2000")
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, data, max_pixels)
    elif image.tile and image.tile[0].codec_name in ("bmp_rle", "ppm", "ppm_plain"):
        what = "run-length coded pixels" if image.format == "BMP" else "values of a pixmap that is not of 8-bit bytes"
        check_count(num_pixels * len(image.getbands()), _MAX_VALUES_IN_PYTHON, what)


def check_memory(name: str, num_pixels: int, *, max_pixels: int) -> None:
    """Refuse an image for which its format's decoder would take more than 8 bytes for each of `max_pixels`.

    Raises ImageError (too_large).
    """
    largest = max_pixels * _BYTES_PER_PIXEL // _DECODER_BYTES.get(name, _BYTES_PER_PIXEL)
    check_count(num_pixels, largest, f"pixels of {name}, of which its decoder keeps several copies")


def _check_coefficients(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> None:
    """Refuse a JPEG of several scans that libjpeg would keep in more memory than there is, 2 bytes a coefficient."""
    num_pixels, parts = image.width * image.height, image.layer[-image.layers :]  # type: ignore[attr-defined]
    widest, highest = max(max(part[1] for part in parts), 1), max(max(part[2] for part in parts), 1)
    per_pixel = sum(part[1] * part[2] for part in parts) / (widest * highest)
    needed = round(num_pixels * (2 * per_pixel + (1 if len(parts) == 1 else 4)))
    if needed <= max_pixels * _BYTES_PER_PIXEL:
        return
    scan = first_scan(data)
    # The first scan's number of components follows its length: where it holds all of them, it is the only one.
    if "progressive" in image.info or data[scan + 2 : scan + 3] != bytes([len(parts)]):
        check_count(needed, max_pixels * _BYTES_PER_PIXEL, "bytes of memory for a JPEG of several scans")


def _check_scans(data: bytes, max_scans: int) -> None:
    # A look at each segment takes a fifth of a photograph's decoding; counting two bytes takes next to nothing.
    if data.count(b"\xff\xda") <= max_scans:
        return
    num_scans, position = 0, 2
    # Up to the image's end: a phone's film may follow, with any bytes.
    while (marker := _JPEG_MARKER.search(data, position)) is not None and marker[1] != b"\xd9":
        num_scans += marker[1] == b"\xda"
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    check_count(num_scans, max_scans, "scans")


def _check_tiles(image: TiffImagePlugin.TiffImageFile, data: bytes, max_pixels: int) -> None:
    # Compressed tiles are unpacked whole, however little of them lies within the image.
    width, height = _tile_side(image, data, TILEWIDTH), _tile_side(image, data, TILELENGTH)
    if width and height:
        across, down = -(-image.tag_v2[IMAGEWIDTH] // width), -(-image.tag_v2[IMAGELENGTH] // height)
        check_count(across * width * down * height, 2 * max_pixels, "pixels of tiles")
    if image.tag_v2.get(FILLORDER, 1) == 2:
        # libtiff turns the bits of what a strip is said to hold, for each strip anew.
        counts = image.tag_v2.get(STRIPBYTECOUNTS, image.tag_v2.get(TILEBYTECOUNTS, ()))
        check_count(sum(counts if isinstance(counts, tuple) else (counts,)), 16 * len(data), "bytes of strips")
    tiles = sorted(
        (tile.offset, tile.extents[2] - tile.extents[0], tile.extents[3] - tile.extents[1])
        for tile in image.tile
        if tile.extents is not None
    )
    # Uncompressed ones are read as often as they are listed; each band may lie in tiles of its own.
    check_count(sum(width * height for _, width, height in tiles), 5 * max_pixels, "pixels of strips")
    # Pillow reads up to where the next one begins, and again, and joins all that, until it has a row.
    for (start, width, _), (following, _, _) in pairwise(tiles):
        if 0 < 8 * (following - start) < width:
            raise ImageError(ImageErrorCode.TRUNCATED, "TIFF: its strips overlap")


def _tile_side(image: TiffImagePlugin.TiffImageFile, data: bytes, side: int) -> int:
    """Return the tiles' width or height, 0 where there are no tiles; from the bytes, as libtiff does.

    Pillow passes over tags of some types that libtiff reads.
    """
    order = "<" if image.tag_v2.prefix == b"II" else ">"
    number, entry = ("Q", "HHQ8s") if data[2] == 43 else ("H", "HHL4s")
    start = (image.tag_v2.offset or 0) + struct.calcsize(f"{order}{number}")
    (num_entries,) = struct.unpack_from(f"{order}{number}", data, image.tag_v2.offset or 0)
    size = struct.calcsize(f"{order}{entry}")
    # A directory may be cut off by the file's end.
    num_entries = min(num_entries, (len(data) - start) // size)
    largest = 0
    for tag, kind, count, value in struct.iter_unpack(f"{order}{entry}", data[start : start + size * num_entries]):
        if tag == side:
            if kind not in _NUMBERS or count != 1:
                raise ImageError(ImageErrorCode.TRUNCATED, "TIFF: the size of its tiles is not a number")
            largest = max(largest, struct.unpack_from(f"{order}{_NUMBERS[kind]}", value)[0])
    return largest
