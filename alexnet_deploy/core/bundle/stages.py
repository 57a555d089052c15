"""Hidden directories in which bundles are made, each locked by its process; one that is not locked was left behind.

A stage is called .NAME.RANDOM.partial and lies beside the bundle's place.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from alexnet_deploy.core.fs.hidden import temporary_prefix
from alexnet_deploy.core.fs.locks import Lock, try_lock
from alexnet_deploy.core.process.say import Say

_NAME = re.compile(r"\..*\.[a-z0-9_]{8}\.partial", re.DOTALL)

# Beside them there are golden/ and plans/. A packed set in the making may be called as a stage is.
_ENTRIES = frozenset(("manifest.json", "model.onnx", "labels.txt", "report.html", "golden", "plans"))


def is_stage(name: str) -> bool:
    """Return whether a directory's name is that of a stage."""
    return _NAME.fullmatch(name) is not None


def new_stage(out: Path) -> tuple[Path, int]:
    """Make a stage for `out`; return it with the descriptor that locks it until it is closed. Raises OSError."""
    while True:
        stage = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), suffix=".partial", dir=out.parent))
        descriptor = os.open(stage, os.O_RDONLY)
        try:
            # Another export may have taken it for one that was left, before it was locked.
            if try_lock(descriptor) is not Lock.TAKEN and stage.exists():
                return stage, descriptor
        except BaseException:
            os.close(descriptor)
            stage.rmdir()
            raise
        os.close(descriptor)


def remove_left_stages(folder: Path, say: Say) -> None:
    """Remove the stages of killed processes in a folder, and say so, or why one is not removed.

    Raises OSError where the folder cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if not is_stage(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            _remove_if_left(path, say)
        except OSError as error:
            say(f"{path}: is of another export; whether that was stopped cannot be told: {error.strerror}")


def _remove_if_left(path: Path, say: Say) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock = try_lock(descriptor)
        if lock is Lock.TAKEN or any(entry.name not in _ENTRIES for entry in path.iterdir()):
            return
        if lock is Lock.HELD:
            shutil.rmtree(path)
            say(f"removed {path}, which a stopped export left")
        else:
            say(f"{path}: is of an export that is running or was stopped; remove it if none is running")
    finally:
        os.close(descriptor)
