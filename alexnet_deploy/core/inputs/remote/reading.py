"""Read files behind URLs, whole or in part, never more than the limit on an image file.

Web servers are read by requests of our own through fsspec's session: fsspec itself takes an error of a server for a
missing file, and a whole answer, of any length, for the part that was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.fs import patience
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.remote.retries import remotely
from alexnet_deploy.core.inputs.remote.urls import file_system_of, is_web
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from fsspec.implementations.http import HTTPFileSystem

_PIECE_BYTES = 1 << 20
_LONGEST_SILENCES = 30
"""An answer that takes longer than this many silences has timed out, so that a slow trickle does not last for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file behind a URL."""

    url: str = field(repr=False)
    """A URL of its file system, with the password."""
    path: str | None = None
    """Its path in that file system; None for the URL's own."""
    num_bytes: int | None = None
    """Its size in the listing of its folder; None if it has not been listed."""

    def read(self, limits: DecodeLimits) -> bytes:
        """Return its bytes; raises ImageError."""
        return _coded(lambda: self._read(limits))

    def _read(self, limits: DecodeLimits) -> bytes:
        if is_web(self.url):
            return _from_web(self.url, limits.max_bytes)[0]
        system, path = file_system_of(self.url)
        path = path if self.path is None else self.path
        # A listing may be older than the file: it saves a request, but is not believed.
        sizes = [] if self.num_bytes is None else [self.num_bytes]
        for size in (*sizes, None):
            found = _size_of(system.info(path)) if size is None else size
            if found > limits.max_bytes:
                raise _too_large(counted(found, "byte"), limits.max_bytes)
            data: bytes = system.cat_file(path, start=0, end=found + 1) if found else b""
            if len(data) == found:
                return data
        raise OSError(f"has {counted(len(data), 'byte')}, its store says {found:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSection:
    """A file inside a larger file behind a URL."""

    archive: RemoteFile
    """The larger file."""
    offset: int
    """Byte offset of the file in it."""
    num_bytes: int
    """Size of the file."""
    data: bytes | None = field(default=None, repr=False)
    """Its bytes, if they came with the archive's headers."""

    def read(self, limits: DecodeLimits) -> bytes:
        """Return its bytes; raises ImageError."""
        if self.data is not None:
            # A window is small, and decoding refuses more than the limit.
            return self.data
        if self.num_bytes > limits.max_bytes:
            raise _too_large(counted(self.num_bytes, "byte"), limits.max_bytes)
        data = _coded(lambda: read_part(self.archive, self.offset, self.num_bytes))
        if len(data) < self.num_bytes:
            raise ImageError(ImageErrorCode.TRUNCATED, "the archive ends before the image does")
        return data


def read_part(file: RemoteFile, offset: int, num_bytes: int) -> bytes:
    """Return a part of a file, less at its end, without retries; raises whatever a plugin raises."""
    if not num_bytes:
        return b""
    if is_web(file.url):
        return _from_web(file.url, num_bytes, offset)[0]
    system, path = file_system_of(file.url)
    part: bytes = system.cat_file(path if file.path is None else file.path, start=offset, end=offset + num_bytes)
    return part


def size_of(file: RemoteFile) -> int:
    """Return the size of a file in bytes, without retries; raises whatever a plugin raises."""
    if is_web(file.url):
        return _from_web(file.url, 1, 0)[1]
    system, path = file_system_of(file.url)
    return _size_of(system.info(path if file.path is None else file.path))


def _coded(read: Callable[[], bytes]) -> bytes:
    try:
        return remotely(read)
    except FileNotFoundError as error:
        raise ImageError(ImageErrorCode.MISSING, "there is no such file") from error
    except OSError as error:
        raise ImageError(ImageErrorCode.UNREADABLE, error.strerror or str(error)) from error


def _size_of(found: dict[str, object]) -> int:
    size = found.get("size")
    if found.get("type") == "directory":
        raise IsADirectoryError("it is a folder; in a list, the name of a folder must end with /")
    if not isinstance(size, int):
        raise OSError("its store does not say how large it is")
    return size


def _too_large(found: str, max_bytes: int) -> ImageError:
    return ImageError(ImageErrorCode.TOO_LARGE, f"{found}, the limit is {max_bytes:,}")


def _from_web(url: str, max_bytes: int, offset: int | None = None) -> tuple[bytes, int]:
    """Return a web server's answer and the size of the file: all of it, or `max_bytes` from an offset on.

    Raises ImageError (too_large) if the whole file has more, and whatever fsspec and aiohttp raise.
    """
    from fsspec.asyn import sync

    system, _ = file_system_of(url)
    data, size = sync(system.loop, _answer, system, url, max_bytes, offset)
    return bytes(data), size


async def _answer(system: "HTTPFileSystem", url: str, max_bytes: int, offset: int | None) -> tuple[bytearray, int]:
    from aiohttp import ClientTimeout

    silence = patience.PATIENCE.silence_seconds
    timeout = ClientTimeout(total=_LONGEST_SILENCES * silence, sock_connect=silence, sock_read=silence)
    options = {"timeout": timeout, **system.kwargs}
    if offset is not None:
        wanted = {"Range": f"bytes={offset}-{offset + max_bytes - 1}", "Accept-Encoding": "identity"}
        options["headers"] = {**options.get("headers", {}), **wanted}
    session = await system.set_session()
    async with session.get(system.encode_url(url), **options) as response:
        if offset is not None and response.status == 416:
            # Not satisfiable: the file ends before.
            return bytearray(), 0
        response.raise_for_status()
        size = 0
        if offset is not None:
            part, _, total = response.headers.get("Content-Range", "").partition("/")
            is_wanted = response.status == 206 and part.startswith(f"bytes {offset}-")
            if not is_wanted or not (total.isascii() and total.isdigit()):
                raise OSError("the server does not send parts of files (HTTP ranges); download the archive first")
            size = int(total)
        elif (response.content_length or 0) > max_bytes:
            raise _too_large(counted(response.content_length or 0, "byte"), max_bytes)
        data = bytearray()
        async for piece in response.content.iter_chunked(_PIECE_BYTES):
            data += piece
            if len(data) > max_bytes:
                if offset is not None:
                    raise OSError("the server sent more than the part that was asked for")
                raise _too_large("more bytes than allowed", max_bytes)
        return data, size
