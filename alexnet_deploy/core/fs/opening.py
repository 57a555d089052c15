"""How files are opened: those a command works on are its own, and those it is given are plain files.

Whoever can write in a run, in a pack in the making or beside an output can put a link, a pipe or a folder where a
working file belongs: through a link, another file would be emptied or overwritten. And a pipe among the inputs would
block for good. Everything that writes in place opens its files by open_working, and everything that replaces a file as
a whole ends in replace_file, which changes a name and never what a link leads to.
"""

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO, Literal

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_PIECE_BYTES = 1 << 20

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def open_working(path: Path, mode: Literal["rb", "r+b", "ab", "a+b", "xb"]) -> FileIO:
    """Open a file that this program alone writes, unbuffered; "ab" and "a+b" make it where there is none.

    It is never emptied, and no link is followed. Raises FileExistsError where something else than a plain file with one
    name stands there, which says what it is and what to do, and OSError as open() does.
    """
    return FileIO(path, mode, opener=_open_own)


def open_input(path: Path, *, through_links: bool = True) -> BufferedReader:
    """Open a plain file for reading, without waiting for what is none.

    Raises OSError as open() does, and where it is a pipe, a device, a socket or a directory, or a link where none is to
    be followed.
    """
    return open(path, "rb", opener=_open_plain if through_links else _open_plain_itself)


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return a regular file's bytes; raises OSError as open() does, and where there are more than `most_bytes`."""
    with open_input(path) as file:
        return read_rest(file, most_bytes)


def read_rest(file: BinaryIO, most_bytes: int) -> bytes:
    """Return what is left of an open regular file; raises OSError where it has more than `most_bytes` in all."""
    found = os.fstat(file.fileno()).st_size
    if found > most_bytes:
        raise OSError(errno.EFBIG, f"it has {found:,} bytes, and at most {most_bytes:,} are read")
    try:
        # As many as it says: a file of /proc says none, and may never end.
        return file.read(found)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, f"memory does not hold its {found:,} bytes") from error


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of an opened input, as many as its size says: files of /proc have none, and may never end."""
    left = os.fstat(file.fileno()).st_size
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        yield piece


def make_directory(path: Path) -> None:
    """Make a directory for working files unless it is there; raises FileExistsError where it is a link or a file."""
    path.mkdir(parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _taken(path, _kind(status), "directory")


def replace_file(source: Path, target: Path) -> None:
    """Give a file the name `target`, whatever file or link has it; raises FileExistsError for a directory there."""
    refuse_directory(target)
    source.replace(target)


def refuse_directory(path: Path) -> None:
    """Raise FileExistsError where a directory has the name of a file that is to be written or removed."""
    if path.is_dir() and not path.is_symlink():
        raise _taken(path, "a directory", "file")


def _open_own(name: str, flags: int) -> int:
    # O_NONBLOCK: opening a pipe must not wait; a plain file does not know it.
    flags = flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    if not flags & os.O_EXCL:
        try:
            # Before it is opened: to open a device may do something to it.
            _refuse_working(os.lstat(name), name)
            return _checked(os.open(name, flags & ~os.O_CREAT), name)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
    try:
        return _checked(os.open(name, flags | os.O_EXCL, 0o666), name)
    except FileExistsError:
        # Another process has made it since, or something else stands there.
        _refuse_working(os.lstat(name), name)
        if flags & os.O_EXCL:
            raise
        return _checked(os.open(name, flags & ~os.O_CREAT), name)


def _checked(descriptor: int, name: str) -> int:
    try:
        _refuse_working(os.fstat(descriptor), name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_working(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _taken(name, _kind(status), "file")
    if status.st_nlink > 1:
        raise _taken(name, f"a file with {status.st_nlink} names (hard links)", "file")


def _open_plain(name: str, flags: int) -> int:
    # Before it is opened, and again: it may have been exchanged meanwhile.
    _refuse_input(os.stat(name), name)  # noqa: PTH116
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    try:
        _refuse_input(os.fstat(descriptor), name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_plain_itself(name: str, flags: int) -> int:
    _refuse_input(os.lstat(name), name)
    return _open_plain(name, flags | os.O_NOFOLLOW)


def _refuse_input(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {_kind(status)}, not a regular file", name)


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a file")


def _taken(path: str | Path, kind: str, wanted: str) -> FileExistsError:
    # EEXIST makes it a FileExistsError.
    words = f"{path} is {kind}, where this program keeps a {wanted} of its own; remove it"
    return FileExistsError(errno.EEXIST, words, str(path))
