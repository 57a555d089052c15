"""Check that a disk has enough free space before the work that fills it."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def missing_room(place: Path, needed_bytes: int) -> str | None:
    """Return one sentence if the disk of `place`, which need not exist yet, has fewer free bytes; None otherwise.

    Raises OSError if the free space cannot be read.
    """
    free_bytes = shutil.disk_usage(_nearest(place)).free
    if needed_bytes <= free_bytes:
        return None
    return (
        f"{place}: needs {_size(needed_bytes)} of disk space, but only {_size(free_bytes)} is free; "
        "free some space or choose another place"
    )


def try_to_write(directory: Path) -> None:
    """Check that a directory can be created and written to, then remove everything created; raises OSError."""
    missing = [path for path in (directory, *directory.parents) if not os.path.lexists(path)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"1")
    finally:
        for path in missing:
            # Only empty ones are removed: another process may have started a run in runs/.
            with suppress(OSError):
                path.rmdir()


def _nearest(place: Path) -> Path:
    return next((path for path in (place, *place.absolute().parents) if path.exists()), Path("/"))


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
