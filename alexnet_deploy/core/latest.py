"""`runs/latest` and `bundles/latest`: a small text file naming the newest entry of its folder."""

from pathlib import Path

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.files import write_atomically
from alexnet_deploy.core.opening import read_input

LATEST = "latest"
"""The file's name."""

# A file name has 255 of them.
_MAX_BYTES = 4096


def set_latest(entry: Path) -> None:
    """Make `entry` the newest of the folder it lies in; raises OSError."""
    write_atomically(entry.parent / LATEST, f"{entry.name}\n".encode())


def get_latest(folder: Path, *, made_by: str) -> Path:
    """Return the newest entry of `folder`; `made_by` is the command that makes one, for the error.

    Raises UsageError where there is none, or it names what is not an entry of the folder.
    """
    pointer = folder / LATEST
    try:
        name = read_input(pointer, _MAX_BYTES).decode().strip()
    except FileNotFoundError:
        raise UsageError(f"there is no {pointer} yet; `{made_by}` makes one") from None
    except OSError as error:
        raise UsageError(f"{pointer}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{pointer}: cannot be read: {error}") from error
    if not name or Path(name).name != name:
        raise UsageError(f"{pointer}: holds {name!r}, where the name of an entry of {folder} is needed")
    if not (folder / name).exists():
        raise UsageError(f"{pointer}: names {name}, which is not in {folder} any more; `{made_by}` makes a new one")
    return folder / name
