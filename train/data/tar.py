"""Files inside tar archives: found in one pass over the headers, and read in place without unpacking."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.core.images.decode import decode_image, read_section
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.process.say import counted

_BLOCK = 512

# Limit on the records of a pax header, which describe the next member: times, owners, names.
_MAX_RECORDS_BYTES = 1 << 20

_UNREAD_RECORDS = (b" path=", b" size=", b" GNU.sparse.")

_PIECE_BYTES = 1 << 20

_GZIP = b"\x1f\x8b"
_COMPRESSIONS = {_GZIP: "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files, and the format's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One regular file in an archive."""

    name: str
    """Its name in the archive."""
    offset: int
    """Byte offset of its content in the outermost file."""
    num_bytes: int
    """How many they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarImage:
    """An image in an archive."""

    archive: Path
    """The outermost file."""
    name: str
    """Its path in a training folder with the unpacked archive."""
    label: int
    """Its class, an index into the labels."""
    offset: int
    """Byte offset of its content."""
    num_bytes: int
    """How many they are."""

    @property
    def place(self) -> str:
        """The archive's path and its own name."""
        return f"{self.archive}, {self.name}"

    def read(self) -> bytes:
        """Return its content; raises ImageError."""
        return read_section(self.archive, self.offset, self.num_bytes)

    def decode(self, data: bytes, resize: ResizePolicy) -> np.ndarray:
        """Decode these bytes to uint8 (256, 256, 3); raises ImageError."""
        return decode_image(data, resize)


def members_of(path: Path, within: Member | None = None) -> Iterator[Member]:
    """Yield the regular files of a tar archive, except hidden ones, in archive order.

    `within` selects an archive inside it. Only headers are read. Raises DataError if the archive cannot be read, ends
    early, is damaged, or has a member that is neither a regular file nor a folder. (tarfile treats a damaged header as
    the end.)
    """
    where = f"{path}" if within is None else f"{path}, {within.name}"
    try:
        with open_input(path) as file:
            start, end = (
                (0, os.fstat(file.fileno()).st_size)
                if within is None
                else (within.offset, within.offset + within.num_bytes)
            )
            _refuse_compressed(file, start, where)
            yield from _walk(file, start, end, where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _refuse_compressed(file: BinaryIO, start: int, where: str) -> None:
    """Raise DataError if the bytes at `start` are compressed."""
    file.seek(start)
    begin = file.read(max(map(len, _COMPRESSIONS)))
    for magic, program in _COMPRESSIONS.items():
        if begin.startswith(magic):
            raise DataError(f"{where}: is compressed with {program}, but the published file is not; decompress it")


def unpack(archive: Path, names: Collection[str], max_bytes: int) -> dict[str, bytes]:
    """Return the contents of the files with these names, in any folder of a tar archive, gzipped or not.

    At most `max_bytes` are unpacked, whatever sizes the headers declare. Raises DataError if the archive cannot be
    read, is damaged, or is larger.
    """
    try:
        with open_input(archive) as file:
            if file.read(len(_GZIP)) == _GZIP:
                file.seek(0)
                with gzip.open(file) as unzipped:
                    return _contents(_Stream(unzipped, max_bytes), names, archive)
            _refuse_compressed(file, 0, str(archive))
            file.seek(0)
            return _contents(_Stream(file, max_bytes), names, archive)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{archive}: cannot be read: {reason}; if it is damaged, download it again") from error


class _Stream:
    """A stream of unpacked bytes with a limit."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, max_bytes: int) -> None:
        self._file = file
        self._left = self._max_bytes = max_bytes

    def check(self, num_bytes: int, archive: Path) -> None:
        """Raise DataError if reading this many more bytes would exceed the limit; reads nothing."""
        if num_bytes > self._left:
            raise DataError(
                f"{archive}: unpacks to more than {self._max_bytes:,} bytes, more than the published file; download it "
                "again"
            )

    def read(self, num_bytes: int) -> bytes:
        """Return this many bytes, or fewer at the end."""
        data = self._file.read(num_bytes)
        self._left -= len(data)
        return data


def _contents(stream: _Stream, names: Collection[str], archive: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    position = 0
    while True:
        stream.check(_BLOCK, archive)
        header = stream.read(_BLOCK)
        if len(header) < _BLOCK:
            raise EOFError(f"it ends after {position:,} unpacked bytes without a tar end marker")
        if not header.strip(b"\0"):
            return contents
        found = _header(header, str(archive), position)
        num_bytes = -(-found.size // _BLOCK) * _BLOCK
        stream.check(num_bytes, archive)
        name = PurePosixPath(found.name).name
        is_wanted = found.type in tarfile.REGULAR_TYPES and name in names
        pieces, left = [], num_bytes
        while left:
            piece = stream.read(min(left, _PIECE_BYTES))
            if not piece:
                raise EOFError(f"it ends in the middle of {found.name}")
            left -= len(piece)
            if is_wanted:
                pieces.append(piece)
        if is_wanted:
            contents[name] = b"".join(pieces)[: found.size]
        position += _BLOCK + num_bytes


def _header(header: bytes, where: str, position: int) -> tarfile.TarInfo:
    """Parse a tar header; raises DataError if it is invalid, has a negative size, or describes a sparse file."""
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise DataError(
            f"{where}: no tar header at byte {position:,} ({error}); it is damaged or not a tar archive"
        ) from error
    if found.size < 0:
        raise DataError(f"{where}: the header of {found.name} has a size of {found.size:,} bytes; it is damaged")
    if found.type == tarfile.GNUTYPE_SPARSE:
        raise DataError(f"{where}: {found.name} is a sparse file, which is not supported")
    return found


def _walk(file: BinaryIO, start: int, end: int, where: str) -> Iterator[Member]:
    position = start
    while True:
        file.seek(position)
        header = file.read(min(_BLOCK, max(0, end - position)))
        if len(header) < _BLOCK:
            raise DataError(
                f"{where}: ends after {counted(end - start, 'byte')} without a tar end marker; download it again"
            )
        if not header.strip(b"\0"):
            return
        found = _header(header, where, position - start)
        member = Member(name=found.name, offset=position + _BLOCK, num_bytes=found.size)
        position = member.offset + -(-found.size // _BLOCK) * _BLOCK
        if member.offset + member.num_bytes > end:
            raise DataError(
                f"{where}: ends after {counted(end - start, 'byte')}, in the middle of {found.name}; download it again"
            )
        if found.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            # Times and owners of the next member, as newer programs write them.
            file.seek(member.offset)
            records = file.read(min(member.num_bytes, _MAX_RECORDS_BYTES + 1))
            if len(records) > _MAX_RECORDS_BYTES or any(word in records for word in _UNREAD_RECORDS):
                raise DataError(
                    f"{where}: has names or sizes too long for a plain tar header, or sparse files; neither is "
                    "supported"
                )
        elif found.isreg():
            # Hidden files are skipped in folders too: macOS adds a ._name for each file.
            if not PurePosixPath(found.name).name.startswith("."):
                yield member
        elif not found.isdir():
            raise DataError(f"{where}: {found.name} is a link or a special file; only regular files are supported")
