"""Parts of the Open Inference Protocol v2 that a client and a server share: the binary tensor extension."""

import struct
from collections.abc import Iterable

HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header with the number of bytes of JSON before the binary tensors."""


def pack_elements(elements: Iterable[bytes]) -> bytes:
    """Return a BYTES tensor: before each element its length, four bytes, little-endian."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def split_elements(blob: bytes, number: int) -> tuple[bytes, ...]:
    """Return the elements of a BYTES tensor; raises ValueError if it does not have exactly this number."""
    elements: list[bytes] = []
    place = 0
    for _ in range(number):
        if place + 4 > len(blob):
            raise ValueError(f"the data end within element {len(elements)}")
        (length,) = struct.unpack_from("<I", blob, place)
        place += 4
        if place + length > len(blob):
            raise ValueError(f"the data end within element {len(elements)}")
        elements.append(blob[place : place + length])
        place += length
    if place != len(blob):
        raise ValueError(f"{len(blob) - place:,} bytes follow the last element")
    return tuple(elements)
