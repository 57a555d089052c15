"""Memory of the process: a budget that its threads share, and what the allocator does with what they free.

glibc keeps freed blocks of less than 32 MiB for the thread that had them, and returns larger ones to the system. Large
images come in small blocks and should be returned; the large blocks of training should be kept.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from alexnet_deploy.core.fs.opening import MIB

_LARGE_BYTES = 128 * MIB
"""From here on freed memory is returned to the system at once; with less, the page faults that follow cost too much."""

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1
# Extra bytes by which the heap grows at a time.
_TOP_PAD = 256 * MIB


class _Allocator:
    """State of the C library's allocator, which cannot be asked for it."""

    keeps: bool = False
    """Whether keep_freed_memory has taken effect."""


class MemoryBudget:
    """At most `num_bytes` are reserved at a time; threads are served in the order in which they ask.

    A thread that needs more than the whole budget waits until nothing is reserved, and then has it alone.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._reserved = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reserve(self, num_bytes: int) -> Iterator[None]:
        """Wait until this many bytes fit; they are reserved inside the context. Do not nest two of one budget."""
        place = object()
        with self._changed:
            self._waiting.append(place)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is place and self._fits(num_bytes))
                self._reserved += num_bytes
            finally:
                self._waiting.remove(place)
                # The next in line may fit too.
                self._changed.notify_all()
        try:
            yield
        finally:
            if num_bytes >= _LARGE_BYTES:
                return_freed_memory()
            with self._changed:
                self._reserved -= num_bytes
                self._changed.notify_all()

    def release_all(self) -> None:
        """Forget all threads that wait or hold something: after a fork, in the child, where they do not exist."""
        self._reserved = 0
        self._changed = threading.Condition()
        self._waiting = deque()

    def _fits(self, num_bytes: int) -> bool:
        return not self._reserved or self._reserved + num_bytes <= self.num_bytes


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees; return whether its C library supports that (glibc does).

    A step of a full-size network frees dozens of large blocks, and the system clears every page when it is used again:
    a third of the step's time. Keeping them costs a fifth more peak memory instead (docs/decisions.md), and the process
    never returns that memory.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MOST, _M_TOP_PAD: _TOP_PAD}
    _Allocator.keeps = all(libc.mallopt(name, value) == 1 for name, value in settings.items())
    return _Allocator.keeps


def return_freed_memory() -> None:
    """Return what all threads have freed to the system, unless the process keeps it; glibc only."""
    if _Allocator.keeps:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
