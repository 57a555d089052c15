"""Writing so that a reader sees the old file or the new one, never a part; and SHA-256."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from alexnet_deploy.core.fs.hidden import temporary_prefix
from alexnet_deploy.core.fs.opening import open_input, pieces_of, refuse_directory, replace_file

# What a file system answers that cannot sync a directory (CIFS, vboxsf, some FUSE), as opposed to one that failed to.
_CANNOT_SYNC = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF))

# What a file system answers that has no hard links, or a kernel that does not let this user make them.
_CANNOT_LINK = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


def sha256(data: bytes) -> str:
    """Return the SHA-256 of the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a plain file's bytes, read piecewise; raises OSError as open_input does."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        for piece in pieces_of(file):
            digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file, or a link, by these bytes in one rename, after they have reached the disk.

    Raises OSError; what stood there before then still stands, and nothing is left beside it.
    """
    refuse_directory(path)
    descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(path), suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp gives 0600; a published file has the rights of any other.
            os.fchmod(file.fileno(), 0o666 & ~umask())
        replace_file(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a name that nothing has yet.

    Raises FileExistsError where something has it by now, which stays as it is; OSError as a rename does.
    """
    try:
        # Unlike a rename this fails where the name is taken.
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
    """Make the directory's entries, a rename among them, outlive a power cut, where its file system can do that.

    Raises OSError where the sync failed (EIO, ENOSPC, ...), not where the file system has none.
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
    """Return the process's mask of rights that new files do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
