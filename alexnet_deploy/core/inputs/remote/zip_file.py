"""Zip archives behind a URL, read part by part: fsspec would keep an answer of any length, whatever it asked for."""

import io
from typing import TYPE_CHECKING

from alexnet_deploy.core.inputs.remote.reading import RemoteFile, read_part, size_of
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from fsspec import AbstractFileSystem

_WINDOW_BYTES = 1 << 20
_MOST_TABLE_BYTES = 128 << 20
"""Limit on a table of contents, which zipfile reads as a whole: about a million and a half files."""


def open_zip(url: str) -> "AbstractFileSystem":
    """Return the file system of a zip archive; raises OSError for a large table of contents, and what plugins raise."""
    from fsspec.implementations.zip import ZipFileSystem

    parts = _Parts(url)
    system: AbstractFileSystem = ZipFileSystem(io.BufferedReader(parts, _WINDOW_BYTES), use_listings_cache=False)
    # A file is read as far as the limit on an image file allows.
    parts.most_bytes = None
    return system


class _Parts(io.RawIOBase):
    """A file behind a URL of which each part is read when it is needed."""

    def __init__(self, url: str) -> None:
        self._file = RemoteFile(url=url)
        self._num_bytes = size_of(self._file)
        self._position = 0
        self.most_bytes: int | None = _MOST_TABLE_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"byte {start + offset:,} of a file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        if self.most_bytes is not None and len(view) > self.most_bytes + _WINDOW_BYTES:
            raise OSError(
                f"the table of contents of the zip archive has more than {counted(self.most_bytes, 'byte')}, the limit"
            )
        wanted = max(0, min(len(view), self._num_bytes - self._position))
        data = read_part(self._file, self._position, wanted)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
