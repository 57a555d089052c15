"""Limits on the number of segments, chunks and blocks that a file has besides its pixels.

Pillow parses them in Python: each takes microseconds, and some keep a hundred bytes of memory for four bytes of the
file. 64 MiB of empty segments took 2.3 GB.
"""

import re
import struct
from collections.abc import Iterator

from PIL import JpegImagePlugin

from alexnet_deploy.core.codecs.containers import png_chunks
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

# Half a second of Pillow's time. The largest PNG has 32,768 chunks of 8 KiB, as libpng writes them; a JPEG with 64 MiB
# of metadata has a thousand segments.
MAX_PARTS = 2**16

# Metadata bytes. Depth maps and videos that phones append to a JPEG's metadata have some dozens of megabytes.
_MAX_NOTE_BYTES = 2**26

# Bytes between a JPEG's segments: Pillow skips them one at a time.
_MAX_STRAY_BYTES = 2**18

# Bytes of quantisation tables and frame headers, about a thousand in a JPEG: Pillow parses them value by value.
_MAX_TABLE_BYTES = 2**16

# Photoshop resources, also parsed in Python: Photoshop's own files have some forty.
_MAX_RESOURCES = 10_000

# A single 0xff only: the search would rescan a run of them from each of its bytes.
_MARKER = re.compile(rb"\xff([^\xff\0])")
_FIRST_SCAN, _PHOTOSHOP_RESOURCE = 0xFFDA, b"8BIM"


def check_parts(name: str, data: bytes) -> None:
    """Refuse a file with too many segments, chunks or blocks, before its decoder reads it.

    Raises ImageError (too_large).
    """
    if name == "JPEG":
        first_scan(data)
    elif name == "PNG":
        _check_chunks(data)
    elif name == "GIF":
        for number, _ in enumerate(_gif_blocks(data), start=1):
            check_count(number, MAX_PARTS, "blocks before its first image")


def check_count(found: int, largest: int, what: str) -> None:
    """Raise ImageError (too_large) if `found` is over the limit."""
    if found > largest:
        raise ImageError(ImageErrorCode.TOO_LARGE, f"{found:,} {what}, the limit is {largest:,}")


def first_scan(data: bytes) -> int:
    """Return the start of the content of a JPEG's first scan header, the file's end if there is none.

    Walks over the segments before it as Pillow does; libjpeg skips later ones quickly. Raises ImageError (too_large) if
    there are too many segments.
    """
    position, number, num_stray, num_table_bytes = 2, 0, 0, 0
    start = len(data)
    while (marker := _MARKER.search(data, position, position + _MAX_STRAY_BYTES)) is not None:
        number += 1
        num_stray += marker.end() - 2 - position
        kind = 0xFF00 | marker[1][0]
        position = start = marker.end()
        if kind not in JpegImagePlugin.MARKER:
            return len(data)
        if (handler := JpegImagePlugin.MARKER[kind][2]) is not None:
            num_bytes = max(int.from_bytes(data[position : position + 2], "big"), 2)
            num_table_bytes += num_bytes if handler in (JpegImagePlugin.DQT, JpegImagePlugin.SOF) else 0
            position += num_bytes
        check_count(number, MAX_PARTS, "segments")
        check_count(num_stray, _MAX_STRAY_BYTES, "bytes between segments")
        check_count(num_table_bytes, _MAX_TABLE_BYTES, "bytes of tables")
        if kind == _FIRST_SCAN:
            break
    else:
        check_count(len(data) - position, _MAX_STRAY_BYTES, "bytes between segments")
        start = len(data)
    check_count(min(position, len(data)), _MAX_NOTE_BYTES, "bytes before its pixels")
    check_count(data.count(_PHOTOSHOP_RESOURCE, 0, position), _MAX_RESOURCES, "Photoshop resources")
    return start


def _check_chunks(data: bytes) -> None:
    num_note_bytes = 0
    for number, (kind, num_bytes) in enumerate(png_chunks(data), start=1):
        check_count(number, MAX_PARTS, "chunks")
        # The last chunk may state more bytes than the file has.
        num_note_bytes += 0 if kind in (b"IDAT", b"fdAT") else min(num_bytes, len(data))
        check_count(num_note_bytes, _MAX_NOTE_BYTES, "bytes besides its pixels")
        if kind == b"IEND":
            return


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Yield the start of each block before the first image, and the place of each byte outside a block."""
    has_palette, bits = data[10:11] >= b"\x80", struct.unpack_from("B", data.ljust(11, b"\0"), 10)[0] & 7
    place = 13 + (3 << (bits + 1) if has_palette else 0)
    while place < len(data) and data[place] not in b",;":
        yield place
        if data[place] != ord("!"):
            place += 1
            continue
        # Pillow skips an empty first block and reads on, except in a comment.
        is_comment = data[place + 1 : place + 2] == b"\xfe"
        place += 2
        if not is_comment and data[place : place + 1] == b"\0":
            place += 1
        while place < len(data) and data[place]:
            yield place
            place += 1 + data[place]
        place += 1
