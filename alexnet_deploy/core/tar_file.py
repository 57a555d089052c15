"""Tar archives, gzipped or not, read block by block: no more is unpacked than allowed, whatever the headers declare."""

import gzip
import tarfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import BinaryIO

BLOCK = 512
_PIECE_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_COMPRESSIONS = MappingProxyType({_GZIP: "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"})
"""First bytes of compressed files, and the format's name."""


class TarError(ValueError):
    """Why an archive cannot be read; the message is the reason."""


class TooLongError(TarError):
    """An archive unpacks to more bytes than allowed."""


def compression_of(begin: bytes) -> str | None:
    """Return the program that compressed a file, by its first eight bytes; None where it is not compressed."""
    return next((program for magic, program in _COMPRESSIONS.items() if begin.startswith(magic)), None)


def header_of(block: bytes, position: int) -> tarfile.TarInfo:
    """Return a parsed header, which is at byte `position` of the archive.

    Raises TarError if it is invalid, has a negative size, or describes a sparse file.
    """
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise TarError(f"no tar header at byte {position:,} ({error}); it is damaged or not a tar archive") from error
    if found.size < 0:
        raise TarError(f"the header of {found.name} has a size of {found.size:,} bytes; it is damaged")
    if found.type == tarfile.GNUTYPE_SPARSE:
        raise TarError(f"{found.name} is a sparse file, which is not supported")
    return found


def unpack(file: BinaryIO, place_for: Callable[[str], BinaryIO | None], max_bytes: int) -> None:
    """Copy files of an open archive, gzipped or not, to where `place_for` says, by their names without folders.

    Files for which it says None are skipped. At most `max_bytes` are unpacked in all; then TooLongError is raised.
    Raises TarError if the archive is damaged or compressed in another way, and OSError where reading or writing fails.
    """
    begin = file.read(8)
    file.seek(0)
    program = compression_of(begin)
    try:
        if program == "gzip":
            with gzip.open(file) as unzipped:
                _copy(_Stream(unzipped, max_bytes), place_for)
        elif program is not None:
            raise TarError(f"is compressed with {program}, where gzip or nothing is expected; decompress it")
        else:
            _copy(_Stream(file, max_bytes), place_for)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TarError(f"cannot be read: {error}; if it is damaged, download it again") from error


class _Stream:
    """A stream of unpacked bytes with a limit."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, max_bytes: int) -> None:
        self._file = file
        self._left = self._max_bytes = max_bytes

    def check(self, num_bytes: int) -> None:
        """Raise TooLongError if reading this many more bytes would exceed the limit; reads nothing."""
        if num_bytes > self._left:
            raise TooLongError(f"unpacks to more than {self._max_bytes:,} bytes")

    def read(self, num_bytes: int) -> bytes:
        """Return this many bytes, or fewer at the end."""
        data = self._file.read(num_bytes)
        self._left -= len(data)
        return data


def _copy(stream: _Stream, place_for: Callable[[str], BinaryIO | None]) -> None:
    position = 0
    while True:
        stream.check(BLOCK)
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise EOFError(f"it ends after {position:,} unpacked bytes without a tar end marker")
        if not block.strip(b"\0"):
            return
        found = header_of(block, position)
        num_bytes = -(-found.size // BLOCK) * BLOCK
        stream.check(num_bytes)
        is_file = found.type in tarfile.REGULAR_TYPES
        place = place_for(PurePosixPath(found.name).name) if is_file else None
        left = num_bytes
        while left:
            piece = stream.read(min(left, _PIECE_BYTES))
            if not piece:
                raise EOFError(f"it ends in the middle of {found.name}")
            if place is not None:
                place.write(piece[: max(0, found.size - (num_bytes - left))])
            left -= len(piece)
        position += BLOCK + num_bytes
