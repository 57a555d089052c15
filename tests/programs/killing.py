"""Kill a forked process at a chosen event."""

import os
import signal
import time
from collections.abc import Callable, Container
from pathlib import Path


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
