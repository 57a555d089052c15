"""How SIGINT, SIGTERM and SIGHUP end the program: at once while nothing is lost by it, else by an exception.

An exception lets a command say what it has kept and remove what it has half made. A second signal ends the program at
once. It imports next to nothing, as it is in force before anything else is imported.
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
    """Of the process."""

    received: signal.Signals | None = None
    """The first signal."""
    unwinds: int = 0
    """How many of those who have something to lose are at work."""


def install() -> None:
    """Take the signals from now on, but those that whoever started this process had it ignore, as nohup does."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _take)
    sys.unraisablehook = _take_what_was_lost


def is_interrupted() -> bool:
    """Return whether the process is on its way out, so that nobody waits for work whose result nobody will use."""
    return _State.received is not None


@contextmanager
def unwinding() -> Iterator[None]:
    """Let a signal raise KeyboardInterrupt or SystemExit inside the block, where there is something to tidy up."""
    _State.unwinds += 1
    try:
        yield
    finally:
        _State.unwinds -= 1


def leave() -> NoReturn:
    """End the process after a signal, without its threads, one of which may be deep in a decoder for many seconds."""
    assert _State.received is not None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # Closed, gone or absent: whoever read it has left before us.
            continue
    _end(_State.received)


def _take(number: int, frame: FrameType | None) -> None:
    is_first, _State.received = _State.received is None, signal.Signals(number)
    if is_first and _State.unwinds:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
    _end(signal.Signals(number))


def _take_what_was_lost(unraisable: "sys.UnraisableHookArgs") -> None:
    # An exception that a signal raised inside a destructor or a callback goes nowhere.
    if _State.received is not None and issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit):
        _end(_State.received)
    sys.__unraisablehook__(unraisable)


def _end(number: signal.Signals) -> NoReturn:
    # Not through sys.stderr, which may be in the middle of a write. A bar hides the cursor.
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")
    os.write(2, f"interrupted by {number.name}\n".encode())
    os._exit(128 + number)
