"""`runs/latest` and `bundles/latest`: a small text file naming the newest entry of its folder."""

import os
from pathlib import Path

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.opening import KIB, read_file

LATEST = "latest"
"""The file's name."""


def set_latest(entry: Path) -> None:
    """Make `entry` the newest of the folder it lies in; raises OSError."""
    write_atomically(entry.parent / LATEST, os.fsencode(f"{entry.name}\n"))


def get_latest(folder: Path, *, made_by: str) -> Path:
    """Return the newest entry of `folder`; `made_by` is the command that makes one, for the error.

    Raises UsageError where there is none, or it names what is not an entry of the folder.
    """
    pointer = folder / LATEST
    try:
        name = os.fsdecode(read_file(pointer, 4 * KIB)).rstrip("\r\n")
    except FileNotFoundError:
        raise UsageError(f"there is no {pointer} yet; `{made_by}` makes one") from None
    except OSError as error:
        raise UsageError(f"{pointer}: cannot be read: {error.strerror}") from error
    # pathlib takes `..` for a name; hidden are entries in the making.
    if not name or name.startswith(".") or Path(name).name != name or any(character < " " for character in name):
        raise UsageError(f"{pointer}: holds {name!r}; it must hold the name of an entry of {folder}")
    if not (folder / name).exists():
        raise UsageError(f"{pointer}: names {name}, which is not in {folder} any more; `{made_by}` makes a new one")
    return folder / name
