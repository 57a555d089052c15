"""Files inside tar archives: found in one pass over the headers, and read in place without unpacking."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np

from alexnet_deploy.core import tar_file
from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.core.images.decode import decode_image, read_section
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.tar_file import Member, reader_of


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

    def decode(self, data: bytes, policy: ImagePolicy) -> np.ndarray:
        """Decode these bytes to uint8 (256, 256, 3); raises ImageError."""
        return decode_image(data, policy)


def members_of(path: Path, within: Member | None = None) -> Iterator[Member]:
    """Yield the regular files of a tar archive, except hidden ones, in archive order.

    `within` selects an archive inside it. Only headers are read. Raises DataError if the archive cannot be read, ends
    early, is damaged, or has a member that is neither a regular file nor a folder.
    """
    where = f"{path}" if within is None else f"{path}, {within.name}"
    try:
        with open_input(path) as file:
            start, end = (
                (0, os.fstat(file.fileno()).st_size)
                if within is None
                else (within.offset, within.offset + within.num_bytes)
            )
            for member in tar_file.members(reader_of(file), start, end):
                if not member.is_file:
                    raise DataError(
                        f"{where}: {member.name} is a link or a special file; only regular files are supported"
                    )
                # Hidden files are skipped in folders too: macOS adds a ._name for each file.
                if not PurePosixPath(member.name).name.startswith("."):
                    yield member
    except tar_file.TarError as error:
        raise DataError(f"{where}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


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
