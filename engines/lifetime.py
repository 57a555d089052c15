"""Engines across fork(): a child process gets an error instead of a hang.

OpenVINO and ONNX Runtime keep threads and locks that fork() does not copy. In a child, an engine of the parent waits
for threads that do not exist; an engine that the child opens itself may run, but aborts or hangs when it is closed.
"""

import ctypes
import os
import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.registry import BACKENDS

if TYPE_CHECKING:
    from alexnet_deploy.engines.engine import Engine

_REMEDY = 'start the process with multiprocessing.get_context("spawn"), or load the bundle only after the fork'

_open: "WeakSet[Engine]" = WeakSet()
_inherited: set[str] = set()


def register_engine(engine: "Engine") -> None:
    """Keep an engine's native objects from being destroyed in a child that is forked while it exists."""
    _open.add(engine)


def refuse_other_process(backend: str, opened_in: int) -> None:
    """Raise BackendError where the current process is not `opened_in`, the process that opened the engine."""
    if (here := os.getpid()) != opened_in:
        raise BackendError(
            f"{backend}: this engine was opened in process {opened_in} and does not work in its fork, process {here}; "
            f"{_REMEDY}"
        )


def refuse_inherited_library(backend: str) -> None:
    """Raise BackendError where the backend's library was loaded before this process was forked."""
    if backend in _inherited:
        raise BackendError(
            f"{backend}: was loaded before this process was forked and does not work in a fork; {_REMEDY}"
        )


def _in_child() -> None:
    _inherited.update(name for name in BACKENDS if name in sys.modules)
    for engine in _open:
        # Never freed: OpenVINO's destructors wait for threads that only the parent has; the child would hang at exit.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
