"""Tar archives, gzipped or not, read block by block: no more is unpacked than allowed, whatever the headers declare."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, TypeAlias

from alexnet_deploy.core.process.say import counted

BLOCK = 512
_PIECE_BYTES = 1 << 20
_MAX_PADDING_BYTES = 1 << 20
_GNU_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_DESCRIPTIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, *_GNU_NAMES)
_MAX_DESCRIPTION_BYTES = 1 << 20
"""Limit on a GNU name or pax header: names, times, owners."""
_GZIP = b"\x1f\x8b"
_COMPRESSIONS = MappingProxyType({_GZIP: "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"})
"""First bytes of compressed files, and the format's name."""


class TarError(ValueError):
    """Why an archive cannot be read; the message is the reason."""


class TooLongError(TarError):
    """An archive unpacks to more bytes than allowed."""


class UnsupportedError(TarError):
    """An archive is valid, but of a kind that is not read."""


class NotTarError(TarError):
    """A file does not begin like an archive."""


ReadAt: TypeAlias = Callable[[int, int], bytes]
"""Returns that many bytes of an archive from a byte offset on, fewer at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of an archive that is not a folder."""

    name: str
    """Its name in the archive."""
    offset: int
    """Byte offset of its content in the file that is read."""
    num_bytes: int
    """Length of its content."""
    is_file: bool = True
    """False for a link, a pipe or a device."""


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
        kind = TarError if position else NotTarError
        raise kind(f"no tar header at byte {position:,} ({error}); it is damaged or not a tar archive") from error
    if found.size < 0:
        raise TarError(f"the header of {found.name} has a size of {found.size:,} bytes; it is damaged")
    if found.type == tarfile.GNUTYPE_SPARSE:
        raise UnsupportedError(f"{found.name} is a sparse file, which is not supported")
    return found


def reader_of(file: BinaryIO) -> ReadAt:
    """Return the function that reads an open file from any offset."""

    def read_at(offset: int, num_bytes: int) -> bytes:
        file.seek(offset)
        return file.read(num_bytes)

    return read_at


def members(read_at: ReadAt, start: int, end: int) -> Iterator[Member]:
    """Yield the members of the archive from byte `start` to `end`, in order, without folders; only headers are read.

    Names and sizes in GNU's or pax headers are those of the next member, as in tarfile. Raises TarError if the archive
    is not a tar archive, is compressed, ends early or is damaged, which tarfile takes for its end; and what `read_at`
    raises.
    """
    if (program := compression_of(read_at(start, min(8, end - start)))) is not None:
        raise UnsupportedError(f"is compressed with {program}; decompress it")
    position, following = start, _Following()
    while True:
        header = read_at(position, max(0, min(BLOCK, end - position)))
        if len(header) < BLOCK:
            raise TarError(f"ends after {counted(end - start, 'byte')} without a tar end marker; download it again")
        if not header.strip(b"\0"):
            _check_end(read_at, position + BLOCK, start, end)
            return
        found = header_of(header, position - start)
        offset = position + BLOCK
        if found.type in _DESCRIPTIONS:
            _refuse_cut(found.name, offset + found.size, start, end)
            following = _described(following, found, read_at(offset, min(found.size, _MAX_DESCRIPTION_BYTES + 1)))
            position = offset + _padded(found.size)
            continue
        # A folder or a link may state a size, but has no content.
        has_content = found.isreg() or found.type not in tarfile.SUPPORTED_TYPES
        size = found.size if following.num_bytes is None else following.num_bytes
        member = Member(
            name=following.name or found.name,
            offset=offset,
            num_bytes=size if has_content else 0,
            is_file=found.isreg(),
        )
        _refuse_cut(member.name, offset + member.num_bytes, start, end)
        position = offset + _padded(member.num_bytes)
        following = _Following()
        if not found.isdir():
            yield member


@dataclass(frozen=True, slots=True, kw_only=True)
class _Following:
    """What the last headers say about the next member; None if they do not."""

    name: str | None = None
    num_bytes: int | None = None


def _described(following: _Following, header: tarfile.TarInfo, content: bytes) -> _Following:
    """Return what is known of the next member, with the content of one more header about it."""
    if len(content) > _MAX_DESCRIPTION_BYTES:
        raise UnsupportedError(
            f"has a header of {counted(header.size, 'byte')} for one name; the limit is {_MAX_DESCRIPTION_BYTES:,}"
        )
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return replace(following, name=_text(content.partition(b"\0")[0]))
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return following
    records = dict(_pax_records(content))
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise UnsupportedError("has sparse files, which are not supported")
    if header.type == tarfile.XGLTYPE:
        if records.keys() & {b"path", b"size"}:
            raise UnsupportedError("has one name or size for all its files, which is not supported")
        return following
    if (path := records.get(b"path")) is not None:
        following = replace(following, name=_text(path))
    if (size := records.get(b"size")) is not None:
        if not size.isdigit() or len(size) > 20:
            raise TarError(f"a pax header has a size of {_text(size[:20])} bytes; it is damaged")
        following = replace(following, num_bytes=int(size))
    return following


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a pax header: each record is `LENGTH KEY=VALUE` and a line break (POSIX.1-2001)."""
    position = 0
    while position < len(content) and content[position]:
        digits, space, _ = content[position : position + 12].partition(b" ")
        end = position + int(digits) if space and digits.isdigit() else 0
        key, equals, value = content[position + len(digits) + 1 : max(0, end - 1)].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise TarError("has a damaged pax header")
        yield key, value
        position = end


def _check_end(read_at: ReadAt, position: int, start: int, end: int) -> None:
    """Raise TarError if more than padding follows the first block of an end marker: it lies in the middle."""
    padding = read_at(position, min(_MAX_PADDING_BYTES, end - position))
    if padding.strip(b"\0") or end - position > _MAX_PADDING_BYTES:
        raise TarError(
            f"has an end marker at byte {position - BLOCK - start:,}, but {counted(end - position, 'byte')} follow; "
            "it is damaged, or several archives in one file"
        )


def _refuse_cut(name: str, needed: int, start: int, end: int) -> None:
    if needed > end:
        raise TarError(f"ends after {counted(end - start, 'byte')}, in the middle of {name}; download it again")


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


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
        num_bytes = _padded(found.size)
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
