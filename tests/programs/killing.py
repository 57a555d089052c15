"""Kill a forked process at a chosen event."""

import os
import signal
import time
from collections.abc import Callable, Container
from itertools import count
from pathlib import Path
from typing import Any


def stop_before(last_step: int, marker: Path) -> None:
    """Make this process stop before its step on the disk (a sync, a rename, a removal) of this number, and wait.

    It makes the marker then. With 0 it does not stop, and the marker counts the steps. What it prints goes to a log
    beside the marker.
    """
    log = os.open(marker.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    numbers = count(1)
    os.fsync = _stopping(os.fsync, numbers, last_step, marker)
    for name in ("rename", "replace", "unlink", "rmdir"):
        setattr(Path, name, _stopping(getattr(Path, name), numbers, last_step, marker))


def _stopping(step: Callable[..., Any], numbers: "count[int]", last: int, marker: Path) -> Callable[..., Any]:
    def stopped(*arguments: Any, **options: Any) -> Any:
        if (number := next(numbers)) == last:
            marker.touch()
            signal.pause()
        if not last:
            marker.write_text(str(number))
        return step(*arguments, **options)

    return stopped


def killed(process: int, has_come: Callable[[], bool], log: Path, *, done: Container[int]) -> bool:
    """Kill a process once the event has come; return False if it had ended, with its work done.

    `done` are the exit codes of a process that has done its work.
    """
    while not (has_ended := os.waitpid(process, os.WNOHANG))[0]:
        if has_come():
            os.kill(process, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            break
        time.sleep(0.002)
    else:
        code = os.waitstatus_to_exitcode(has_ended[1])
    assert code == -signal.SIGKILL or code in done, (code, log.read_text())
    return code < 0
