"""Locks on files, which the system lifts when a process ends, however it ends."""

import errno
import fcntl
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from alexnet_deploy.core.process.say import Say

# What a file system without locks answers: Lustre mounted without flock, NFS without lockd, some FUSE; and EBADF where
# NFS has none on a directory, which cannot be open to write.
_NO_LOCKS = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF))


class Lock(Enum):
    """What came of trying to lock a file."""

    HELD = "held"
    """It is locked until it is closed."""
    TAKEN = "taken"
    """Another process, or another opening of it, holds the lock."""
    IMPOSSIBLE = "impossible"
    """Its file system has no locks."""


def try_lock(file: BinaryIO | int) -> Lock:
    """Lock an open file or descriptor until it is closed, without waiting; raises OSError for any other failure."""
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
    """Lock an open file, which guards `place`; return whether another has, and say so where there are no locks.

    Raises OSError as try_lock does.
    """
    lock = try_lock(file)
    if lock is Lock.IMPOSSIBLE:
        say(f"no file locks on this file system: make sure that no other process writes {place}")
    return lock is Lock.TAKEN
