"""`runs/latest` and `bundles/latest`: small text files that name the newest entry of their folder."""

import os
from pathlib import Path

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.opening import KIB, read_file

LATEST = "latest"
"""The file's name."""


def set_latest(entry: Path) -> None:
    """Record `entry` as the newest of its folder; raises OSError."""
    write_atomically(entry.parent / LATEST, os.fsencode(f"{entry.name}\n"))


def get_latest(folder: Path, *, made_by: str) -> Path:
    """Return the newest entry of `folder`; `made_by` is the command that makes one, for the error.

    Raises UsageError if there is no `latest` file, it is a link, or it does not name an entry of the folder.
    """
    pointer = folder / LATEST
    if pointer.is_symlink():
        raise UsageError(
            f"{pointer}: is a link, but must be a file with the name of an entry of {folder}; remove the link, and "
            "name the entry itself"
        )
    try:
        name = os.fsdecode(read_file(pointer, 4 * KIB)).rstrip("\r\n")
    except FileNotFoundError:
        raise UsageError(f"there is no {pointer} yet; `{made_by}` makes one") from None
    except OSError as error:
        raise UsageError(f"{pointer}: cannot be read: {error.strerror}") from error
    # pathlib accepts `..` as a name; hidden entries are unfinished.
    if not name or name.startswith(".") or Path(name).name != name or any(character < " " for character in name):
        raise UsageError(f"{pointer}: holds {name!r}; it must hold the name of an entry of {folder}")
    if not (folder / name).exists():
        raise UsageError(f"{pointer}: names {name}, which does not exist in {folder}; `{made_by}` makes a new one")
    return folder / name
