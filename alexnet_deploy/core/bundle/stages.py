"""Stages: hidden directories for unfinished bundles, each locked by its process; an unlocked one is abandoned.

A stage is called .NAME.RANDOM.partial and lies beside the bundle's final path.
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

# A directory with other entries is not a stage: an unfinished packed set may have the same kind of name.
_ENTRIES = frozenset(("manifest.json", "model.onnx", "labels.txt", "report.html", "golden", "plans"))


def is_stage(name: str) -> bool:
    """Return whether a directory's name is the name of a stage."""
    return _NAME.fullmatch(name) is not None


def new_stage(out: Path) -> tuple[Path, int]:
    """Create a stage for `out`; return it with a descriptor that keeps it locked until it is closed. Raises OSError."""
    while True:
        stage = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), suffix=".partial", dir=out.parent))
        descriptor = os.open(stage, os.O_RDONLY)
        try:
            # Before it was locked, another export may have removed it as abandoned.
            if try_lock(descriptor) is not Lock.TAKEN and stage.exists():
                return stage, descriptor
        except BaseException:
            os.close(descriptor)
            stage.rmdir()
            raise
        os.close(descriptor)


def remove_left_stages(folder: Path, say: Say) -> None:
    """Remove the stages of killed processes in a folder and report each, or why one is not removed.

    Raises OSError if the folder cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if not is_stage(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            _remove_if_left(path, say)
        except OSError as error:
            say(f"{path}: cannot tell whether the export that created it still runs: {error.strerror}")


def _remove_if_left(path: Path, say: Say) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock = try_lock(descriptor)
        if lock is Lock.TAKEN or any(entry.name not in _ENTRIES for entry in path.iterdir()):
            return
        if lock is Lock.HELD:
            shutil.rmtree(path)
            say(f"removed {path}, left behind by a stopped export")
        else:
            say(f"{path}: created by an export that is running or was stopped; remove it if no export is running")
    finally:
        os.close(descriptor)
