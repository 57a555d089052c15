"""Reading again what a file system could not give for a moment: a share that is away, a stale handle."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")

_NAMES = (
    *("EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR", "EIO"),
    *("ENETDOWN", "ENETRESET", "ENETUNREACH", "ENODEV", "ENOTCONN", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT"),
)

TRANSIENT = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
"""Errors that NFS, SMB and FUSE give while a share is away; EIO is among them, though a bad disk gives it too.

ENOENT is not: a file that is missing is an answer, and the commonest.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often, and after which pauses, a transient error is met with another attempt."""

    delays_seconds: tuple[float, ...] = (0.1, 0.5, 2.0)
    """The pause before each further attempt: three of them, 2.6 seconds in all."""
    wait: Callable[[float], object] = time.sleep
    """What passes the time."""


PATIENCE = Patience()
"""What every reading of an image file or a folder has; tests exchange it."""


def patiently(attempt: Callable[[], Result]) -> Result:
    """Return what `attempt` returns, calling it again after each transient OSError as PATIENCE allows.

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
