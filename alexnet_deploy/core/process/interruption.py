"""How SIGINT, SIGTERM and SIGHUP end the program: at once if there is nothing to clean up, else by an exception.

The exception lets a command report what it has saved and remove unfinished files. A second signal ends the program at
once. This module imports almost nothing, because it must be active before other modules are imported.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """Signal state of the process."""

    received: signal.Signals | None = None
    """The first signal received."""
    unwinds: int = 0
    """Number of active `unwinding` blocks."""


def install() -> None:
    """Install the signal handlers, except for signals that the parent process set to be ignored, as nohup does."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _handle_unraisable


def is_interrupted() -> bool:
    """Return whether a signal is ending the process: then do not wait for work whose result is not needed."""
    return _State.received is not None


@contextmanager
def unwinding() -> Iterator[None]:
    """Make a signal raise KeyboardInterrupt or SystemExit inside the block, because it has something to clean up."""
    _State.unwinds += 1
    try:
        yield
    finally:
        _State.unwinds -= 1


def leave() -> NoReturn:
    """End the process after a signal without waiting for its threads: a decoder may run for many more seconds."""
    assert _State.received is not None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # The stream is closed or missing: its reader ended first.
            continue
    _end(_State.received)


def _handle(number: int, frame: FrameType | None) -> None:
    is_first, _State.received = _State.received is None, signal.Signals(number)
    if is_first and _State.unwinds:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
    _end(signal.Signals(number))


def _handle_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    # Python drops an exception that a signal raises inside a destructor or a callback.
    if _State.received is not None and issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit):
        _end(_State.received)
    sys.__unraisablehook__(unraisable)


def _end(number: signal.Signals) -> NoReturn:
    # Not through sys.stderr, which may be in the middle of a write. Show the cursor, which a progress bar hides.
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")
    os.write(2, f"interrupted by {number.name}\n".encode())
    os._exit(128 + number)
