"""Files inside tar archives: found in one pass over the headers, and read in place without unpacking."""

import os
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from alexnet_deploy.core import tar_file
from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.core.images.decode import decode_image, read_section
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.tar_file import BLOCK, compression_of

# Limit on the records of a pax header, which describe the next member: times, owners, names.
_MAX_RECORDS_BYTES = 1 << 20

_UNREAD_RECORDS = (b" path=", b" size=", b" GNU.sparse.")


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
    program = compression_of(file.read(8))
    if program is not None:
        raise DataError(f"{where}: is compressed with {program}, but the published file is not; decompress it")


def unpack(archive: Path, names: Collection[str], max_bytes: int) -> dict[str, bytes]:
    """Return the contents of the files with these names, in any folder of a tar archive, gzipped or not.

    At most `max_bytes` are unpacked, whatever sizes the headers declare. Raises DataError if the archive cannot be
    read, is damaged, or is larger.
    """
    contents: dict[str, BytesIO] = {}

    def place_for(name: str) -> BytesIO | None:
        if name not in names:
            return None
        contents[name] = BytesIO()
        return contents[name]

    try:
        with open_input(archive) as file:
            tar_file.unpack(file, place_for, max_bytes)
    except tar_file.TooLongError as error:
        raise DataError(f"{archive}: {error}, more than the published file; download it again") from error
    except tar_file.TarError as error:
        raise DataError(f"{archive}: {error}") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be read: {error.strerror or error}") from error
    return {name: content.getvalue() for name, content in contents.items()}


def _header(block: bytes, where: str, position: int) -> tarfile.TarInfo:
    try:
        return tar_file.header_of(block, position)
    except tar_file.TarError as error:
        raise DataError(f"{where}: {error}") from error


def _walk(file: BinaryIO, start: int, end: int, where: str) -> Iterator[Member]:
    position = start
    while True:
        file.seek(position)
        header = file.read(min(BLOCK, max(0, end - position)))
        if len(header) < BLOCK:
            raise DataError(
                f"{where}: ends after {counted(end - start, 'byte')} without a tar end marker; download it again"
            )
        if not header.strip(b"\0"):
            return
        found = _header(header, where, position - start)
        member = Member(name=found.name, offset=position + BLOCK, num_bytes=found.size)
        position = member.offset + -(-found.size // BLOCK) * BLOCK
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
