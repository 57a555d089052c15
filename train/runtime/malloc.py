"""The host's memory in training on a CPU: what a step frees is kept for the next one.

glibc gives every block of 32 MiB or more back to the system as it is freed. A step of a full-size network frees dozens
of them, and the system hands them out again page by page, each cleared first: a third of the step's time. Kept, they
cost memory instead, a fifth more at its peak (docs/decisions.md), and what was needed once is not given back.
"""

import ctypes

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1
# The heap grows by so much at a time, beyond what is asked for.
_TOP_PAD = 256 * 2**20


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, from now on; return whether its C library can (glibc can)."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MOST, _M_TOP_PAD: _TOP_PAD}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
