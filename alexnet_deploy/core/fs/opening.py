"""Safe opening of files: working files must belong to this program alone, input files must be plain files.

Other users who can write to a run, an unfinished pack or the folder of an output could put a link, a pipe or a folder
in place of a working file; through a link, another file would be truncated or overwritten. A pipe among the inputs
would block forever. All code that writes in place opens files with open_working; all code that replaces a whole file
ends in replace_file, which renames and never follows a link.
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
    """Open a file that only this program writes, unbuffered; "ab" and "a+b" create it if it does not exist.

    It is never truncated, and no link is followed. Raises FileExistsError if the path is not a plain file with a single
    name (the message says what it is and what to do), and OSError like open().
    """
    return FileIO(path, mode, opener=_open_own)


def open_input(path: Path, *, through_links: bool = True) -> BufferedReader:
    """Open a plain file for reading; never block on a pipe or device.

    Raises OSError like open(), and if it is a pipe, a device, a socket or a directory, or a link while `through_links`
    is false.
    """
    return open(path, "rb", opener=_open_plain if through_links else _open_plain_itself)


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return a regular file's bytes; raises OSError like open(), and if there are more than `most_bytes`."""
    with open_input(path) as file:
        return read_rest(file, most_bytes)


def read_rest(file: BinaryIO, most_bytes: int) -> bytes:
    """Return the rest of an open regular file; raises OSError if the whole file has more than `most_bytes`."""
    found = os.fstat(file.fileno()).st_size
    if found > most_bytes:
        raise OSError(errno.EFBIG, f"it has {found:,} bytes, the limit is {most_bytes:,}")
    try:
        # At most the reported size: a file in /proc reports 0 bytes and may never end.
        return file.read(found)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, f"not enough memory for its {found:,} bytes") from error


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all bytes to an unbuffered file, whose write may take a part of them; raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of an open input up to its reported size: files in /proc report 0 and may never end."""
    left = os.fstat(file.fileno()).st_size
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        yield piece


def make_directory(path: Path) -> None:
    """Create a directory for working files if it does not exist; raises FileExistsError if it is a link or a file."""
    path.mkdir(parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _taken(path, kind_of(status), "directory")


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to `target`, replacing any file or link; raises FileExistsError if `target` is a directory."""
    refuse_directory(target)
    source.replace(target)


def refuse_directory(path: Path) -> None:
    """Raise FileExistsError if the path of a file to be written or removed is a directory."""
    if path.is_dir() and not path.is_symlink():
        raise _taken(path, "a directory", "file")


def _open_own(name: str, flags: int) -> int:
    # O_NONBLOCK: opening a pipe must not block; plain files ignore the flag.
    flags = flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    if not flags & os.O_EXCL:
        try:
            # Checked before opening: opening a device may have side effects.
            _refuse_working(os.lstat(name), name)
            return _checked(os.open(name, flags & ~os.O_CREAT), name)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
    try:
        return _checked(os.open(name, flags | os.O_EXCL, 0o666), name)
    except FileExistsError:
        # Another process has created it since, or it is not a plain file.
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
        raise _taken(name, kind_of(status), "file")
    if status.st_nlink > 1:
        raise _taken(name, f"a file with {status.st_nlink} names (hard links)", "file")


def _open_plain(name: str, flags: int) -> int:
    # Checked before and after opening: it may be replaced in between.
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
        raise OSError(number, f"it is {kind_of(status)}, not a regular file", name)


def kind_of(status: os.stat_result) -> str:
    """Return what a path is, as `a directory` or `a device`."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a file")


def _taken(path: str | Path, kind: str, wanted: str) -> FileExistsError:
    # EEXIST makes it a FileExistsError.
    words = f"{path} is {kind}, but this program needs its own {wanted} there; remove it"
    return FileExistsError(errno.EEXIST, words, str(path))
