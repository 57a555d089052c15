"""Files inside tar archives, found by one pass over the headers and read where they lie, never unpacked."""

import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.image import decode_image, read_section
from alexnet_deploy.core.preprocessing import ResizePolicy
from alexnet_deploy.core.say import counted

_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One plain file in an archive."""

    name: str
    """As the archive has it."""
    offset: int
    """Where its bytes begin, counted from the start of the outermost file."""
    num_bytes: int
    """How many they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarPicture:
    """A picture in an archive."""

    archive: Path
    """The outermost file."""
    name: str
    """What it would be called, were the archive unpacked into a folder to train on."""
    label: int
    """Its class, an index into the labels."""
    offset: int
    """Where its bytes begin."""
    num_bytes: int
    """How many they are."""

    @property
    def place(self) -> str:
        """The archive and its name."""
        return f"{self.archive}, {self.name}"

    def read(self) -> bytes:
        """Return its bytes; raises ImageError."""
        return read_section(self.archive, self.offset, self.num_bytes)

    def decode(self, data: bytes, resize: ResizePolicy) -> np.ndarray:
        """Return the picture in them, uint8 (256, 256, 3); raises ImageError."""
        return decode_image(data, resize)


def members_of(path: Path, within: Member | None = None) -> Iterator[Member]:
    """Yield the plain files of a tar archive, hidden ones excepted, in their order.

    `within` is an archive that lies inside it. Only headers are read. Raises DataError where the archive cannot be
    read, ends early or is damaged, or holds what is neither a plain file nor a folder. (tarfile itself takes a damaged
    header for the end.)
    """
    where = f"{path}" if within is None else f"{path}, {within.name}"
    try:
        # Unbuffered: 512 bytes are wanted out of each 100 kB.
        with path.open("rb", buffering=0) as file:
            start, end = (
                (0, path.stat().st_size) if within is None else (within.offset, within.offset + within.num_bytes)
            )
            yield from _walk(file, start, end, where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def unpack(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the files of these names in an archive, compressed or not, whatever folder they are in.

    Raises DataError where it cannot be read or is damaged.
    """
    contents = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and (name := PurePosixPath(member.name).name) in names:
                    contents[name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        # tarfile tells of each format it has tried, a line each.
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataError(f"{archive}: cannot be read: {reason}; download it again if it is damaged") from error
    return contents


def _walk(file: BinaryIO, start: int, end: int, where: str) -> Iterator[Member]:
    position = start
    while True:
        file.seek(position)
        header = file.read(min(_BLOCK, max(0, end - position)))
        if len(header) < _BLOCK:
            raise DataError(
                f"{where}: ends after {counted(end - start, 'byte')} without a tar's end mark; download it again"
            )
        if not header.strip(b"\0"):
            return
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DataError(
                f"{where}: has no tar header {position - start:,} bytes in ({error}); it is damaged or no tar"
            ) from error
        member = Member(name=found.name, offset=position + _BLOCK, num_bytes=found.size)
        position = member.offset + -(-found.size // _BLOCK) * _BLOCK
        if member.offset + member.num_bytes > end:
            raise DataError(
                f"{where}: ends after {counted(end - start, 'byte')}, in the middle of {found.name}; download it again"
            )
        if found.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            # Times and owners beside the next member, as newer programs write them.
            file.seek(member.offset)
            records = file.read(member.num_bytes)
            if b" path=" in records or b" size=" in records:
                raise DataError(
                    f"{where}: holds names or sizes too long for a plain tar header, which are not read here"
                )
        elif found.isreg():
            # Hidden ones are no pictures in a folder either: a Mac adds a ._name for each.
            if not PurePosixPath(found.name).name.startswith("."):
                yield member
        elif not found.isdir():
            raise DataError(f"{where}: {found.name} is a link or a special file, where plain files are needed")
