"""Host memory in CPU training: the allocator keeps freed blocks for the next step.

glibc returns every freed block of 32 MiB or more to the system. A step of a full-size network frees dozens of them, and
the system clears every page when it is used again: a third of the step's time. Keeping the blocks costs a fifth more
peak memory instead (docs/decisions.md), and the process never returns that memory.
"""

import ctypes

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1
# Extra bytes by which the heap grows at a time.
_TOP_PAD = 256 * 2**20


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees; return whether its C library supports that (glibc does)."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MOST, _M_TOP_PAD: _TOP_PAD}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
