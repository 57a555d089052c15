"""Read metadata of PNG and AVIF files that Pillow drops: PNG chunks and ISO boxes.

Sources: PNG Third Edition, 5.3; ISO/IEC 14496-12 (boxes); ISO/IEC 23008-12 (items and their properties).
"""

import struct
from collections.abc import Iterator
from itertools import islice

# Real files have some dozens; walking a hostile file must not take minutes.
_MAX_PARTS = 10_000


def png_chunk(data: bytes, name: bytes) -> bytes | None:
    """Return the content of the first chunk of this name before the pixels, None if there is none."""
    place = 8
    for kind, num_bytes in islice(png_chunks(data), _MAX_PARTS):
        if kind == name:
            return data[place + 8 : place + 8 + num_bytes]
        if kind == b"IDAT":
            break
        place += 12 + num_bytes
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the name and length of each chunk of a PNG, in order."""
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, length
        place += 12 + length


def primary_nclx(data: bytes) -> tuple[int, int] | None:
    """Return primaries and transfer (ITU-T H.273) of the primary image of an AVIF or HEIF file, None if not given.

    Truncated boxes give None: the decoder reports whether the pixels are valid.
    """
    try:
        meta = _box(data, b"meta")[4:]
        properties = _box(meta, b"iprp")
        owned = list(islice(_boxes(_box(properties, b"ipco")), _MAX_PARTS))
        for index in _properties_of(_primary(_box(meta, b"pitm")), _box(properties, b"ipma")):
            kind, content = owned[index - 1]
            if kind == b"colr" and content.startswith(b"nclx"):
                primaries, transfer = struct.unpack_from(">HH", content, 4)
                return primaries, transfer
    except (KeyError, IndexError, struct.error):
        pass
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = place + length if length else len(data)
        if end < start:
            return
        yield kind, data[start:end]
        place = end


def _box(data: bytes, name: bytes) -> bytes:
    for kind, content in islice(_boxes(data), _MAX_PARTS):
        if kind == name:
            return content
    raise KeyError(name)


def _primary(pitm: bytes) -> int:
    (item,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)
    return int(item)


def _properties_of(item: int, ipma: bytes) -> list[int]:
    """Return the indices of an item's properties, starting at 1."""
    names, indices = ">IB" if ipma[0] else ">HB", ">H" if ipma[3] & 1 else ">B"
    (num_items,) = struct.unpack_from(">I", ipma, 4)
    place = 8
    for _ in range(min(num_items, _MAX_PARTS)):
        found, count = struct.unpack_from(names, ipma, place)
        place += struct.calcsize(names)
        if found == item:
            values = [struct.unpack_from(indices, ipma, place + n * struct.calcsize(indices))[0] for n in range(count)]
            # The highest bit marks an essential property; index 0 means no property.
            numbers = [value & (0x7FFF if indices == ">H" else 0x7F) for value in values]
            return [number for number in numbers if number]
        place += count * struct.calcsize(indices)
    raise KeyError(item)
