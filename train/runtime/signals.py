"""SIGINT and SIGTERM are handled between two steps."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np


@contextmanager
def stopping(total: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Iterator[Callable[[], None]]:
    """Yield a function that raises, when it is called, the signal received since the last call.

    It raises KeyboardInterrupt for SIGINT and SystemExit(143) for SIGTERM. In the middle of a step either would leave
    half-updated weights. A second signal ends the process at once. Signals reach Python's main thread only, so another
    thread handles none. When several processes train together, `total` sums over them, and all raise what one received.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)

    def stop_if_asked() -> None:
        interrupted, ended = total(np.array([received[:1] == [number] for number in numbers]))
        if interrupted:
            raise KeyboardInterrupt
        if ended:
            raise SystemExit(128 + signal.SIGTERM)

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (numbers if is_main else ())}
    try:
        yield stop_if_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
