"""A budget of memory that threads share: each waits until what it needs fits."""

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from alexnet_deploy.core.fs.opening import MIB

_LARGE_BYTES = 128 * MIB
"""From here on freed memory is returned to the system at once; with less, the page faults that follow cost too much."""


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
                return_freed()
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


def return_freed() -> None:
    """Return freed memory of all threads to the system; does nothing where the C library cannot.

    glibc keeps what a thread frees for that thread, in pieces of up to 32 MiB: eight threads that decode one image
    after another would together hold eight.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
