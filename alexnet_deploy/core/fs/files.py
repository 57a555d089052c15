"""Atomic writes, so that a reader sees the old file or the new one, never a part; and SHA-256."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from alexnet_deploy.core.errors import OutputError, UsageError
from alexnet_deploy.core.fs.hidden import temporary_prefix
from alexnet_deploy.core.fs.opening import open_input, pieces_of, refuse_directory, replace_file

# Errors of a file system that cannot sync a directory (CIFS, vboxsf, some FUSE), unlike those of a failed sync.
_CANNOT_SYNC = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF))

# Errors of a file system without hard links, or of a kernel that forbids them to this user.
_CANNOT_LINK = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


def sha256(data: bytes) -> str:
    """Return the SHA-256 of the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a plain file's bytes, read in pieces; raises OSError like open_input."""
    with open_input(path) as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file from where it stands to its end, read in pieces."""
    digest = hashlib.sha256()
    for piece in pieces_of(file):
        digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file, or a link, by these bytes in one rename, after syncing them to disk.

    On OSError the old file is unchanged and no temporary file is left.
    """
    refuse_directory(path)
    descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(path), suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp creates mode 0600; the file gets the usual permissions.
            os.fchmod(file.fileno(), 0o666 & ~umask())
        replace_file(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def refuse_existing(out: Path) -> None:
    """Raise UsageError if anything, even a broken link, has this name."""
    if os.path.lexists(out):
        raise UsageError(f"{out}: already exists; choose another directory")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Give a hidden directory to fill, which becomes `out` in one rename; a failure leaves nothing there.

    `out` must not exist: call refuse_existing first. Raises OutputError where it cannot be created or written, and for
    every OSError of the caller's block.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), suffix=".partial", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be created: {error.strerror}") from error
    try:
        yield stage
        stage.chmod(0o777 & ~umask())
        stage.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a name that does not exist yet.

    Raises FileExistsError if the name exists, which is left unchanged; OSError like a rename.
    """
    try:
        # Unlike a rename, this fails if the name exists.
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _claim(target)
        try:
            source.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    else:
        source.unlink()


def _claim(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def sync_directory(path: Path) -> None:
    """Sync a directory, so that its entries and renames survive a power failure, if its file system supports that.

    Raises OSError if the sync failed (EIO, ENOSPC, ...), but not if the file system cannot sync directories.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def umask() -> int:
    """Return the process's umask: the permissions that new files do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
