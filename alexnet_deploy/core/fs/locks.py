"""File locks, which the system releases when the process ends, even if it is killed."""

import errno
import fcntl
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from alexnet_deploy.core.process.say import Say

# Errors of a file system without locks: Lustre mounted without flock, NFS without lockd, some FUSE; and EBADF from NFS
# for a directory, which cannot be opened for writing.
_NO_LOCKS = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF))


class Lock(Enum):
    """Result of trying to lock a file."""

    HELD = "held"
    """This process holds the lock until it closes the file."""
    TAKEN = "taken"
    """Another process, or another descriptor of this one, holds the lock."""
    IMPOSSIBLE = "impossible"
    """The file system does not support locks."""


def try_lock(file: BinaryIO | int) -> Lock:
    """Try to lock an open file or descriptor until it is closed, without waiting; raises OSError on other failures."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.TAKEN
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return Lock.IMPOSSIBLE
        raise
    return Lock.HELD


def is_taken(file: BinaryIO, place: Path, say: Say) -> bool:
    """Lock an open file that guards `place`; return whether another process holds the lock.

    Reports to `say` if the file system has no locks. Raises OSError like try_lock.
    """
    lock = try_lock(file)
    if lock is Lock.IMPOSSIBLE:
        say(f"no file locks on this file system: make sure that no other process writes {place}")
    return lock is Lock.TAKEN
