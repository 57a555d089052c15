"""The directory of a zip archive, in bounded memory: Python's reader builds a record for each entry."""

import struct
import zipfile
from collections.abc import Sequence
from io import BufferedReader
from itertools import pairwise
from typing import NamedTuple

_MOST_BYTES = 1 << 20
"""Of the directory: some 10,000 entries."""
_END = b"PK\x05\x06"
_END_BYTES, _MOST_COMMENT = 22, (1 << 16) - 1
_HEAD_BYTES = 30
_IS_ENCRYPTED = 1


class ZipPart(NamedTuple):
    """Where an entry's bytes lie in the archive."""

    begin: int
    num_bytes: int


def open_zip(file: BufferedReader) -> zipfile.ZipFile:
    """Return the archive in an open file; raises BadZipFile where it is damaged or its directory is too long."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _MOST_COMMENT))
    tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or place + _END_BYTES > len(tail):
        raise zipfile.BadZipFile("its directory is missing; it ends early")
    (num_bytes,) = struct.unpack_from("<I", tail, place + 12)
    # 2^32 - 1 says that the length is in another record, which archives of 4 GiB have.
    if num_bytes > _MOST_BYTES:
        raise zipfile.BadZipFile(f"its directory has {num_bytes:,} bytes, the limit is {_MOST_BYTES:,}")
    return zipfile.ZipFile(file)


def stored_part(file: BufferedReader, entry: zipfile.ZipInfo) -> ZipPart:
    """Return where an entry's bytes lie; raises BadZipFile unless they are stored as they are, within the file."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} is compressed")
    if entry.flag_bits & _IS_ENCRYPTED:
        raise zipfile.BadZipFile(f"{entry.filename} is encrypted")
    size = file.seek(0, 2)
    file.seek(entry.header_offset)
    head = file.read(_HEAD_BYTES)
    if len(head) < _HEAD_BYTES or not head.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"{entry.filename} has no header")
    name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
    begin = entry.header_offset + _HEAD_BYTES + name_bytes + extra_bytes
    if begin + entry.file_size > size:
        raise zipfile.BadZipFile(f"{entry.filename} reaches beyond the end of the file")
    return ZipPart(begin, entry.file_size)


def check_apart(parts: Sequence[ZipPart]) -> None:
    """Raise BadZipFile where two parts overlap."""
    in_order = sorted(parts)
    for before, after in pairwise(in_order):
        if before.begin + before.num_bytes > after.begin:
            raise zipfile.BadZipFile("its entries overlap")
