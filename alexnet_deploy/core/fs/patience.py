"""Retries for transient file system errors: an unreachable share, a stale handle."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

Result = TypeVar("Result")

_NAMES = (
    *("EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR", "EIO"),
    *("ENETDOWN", "ENETRESET", "ENETUNREACH", "ENODEV", "ENOTCONN", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT"),
)

TRANSIENT = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
"""Errors of NFS, SMB and FUSE while a share is unreachable, including EIO, which a bad disk also gives.

ENOENT is not transient: a missing file is a valid and common result.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Number of retries after a transient error, and the delays between them."""

    delays_seconds: tuple[float, ...] = (0.1, 0.5, 2.0)
    """Delay before each retry: three retries, 2.6 seconds in total."""
    silence_seconds: float = 60.0
    """Time after which a web server that sends nothing has timed out."""
    wait: Callable[[float], object] = time.sleep
    """Function that waits."""


PATIENCE = Patience()
"""Used for every read of an image file or folder in this process; set_retries and tests replace it."""

_LONGEST_SECONDS = 30.0


def set_retries(num_retries: int) -> None:
    """Set the number of retries for all later reads of this process; a program calls it once, before it reads.

    The delays are 0.1, 0.5, 2 and 8 seconds, then 30 seconds each.
    """
    global PATIENCE
    delays = (*(0.1, 0.5, 2.0, 8.0)[:num_retries], *(_LONGEST_SECONDS,) * (num_retries - 4))
    PATIENCE = replace(PATIENCE, delays_seconds=delays)


def patiently(attempt: Callable[[], Result]) -> Result:
    """Return the result of `attempt`, retrying after each transient OSError as PATIENCE allows.

    Raises the last error, and at once an OSError that is not transient.
    """
    for delay in PATIENCE.delays_seconds:
        try:
            return attempt()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
        PATIENCE.wait(delay)
    return attempt()
