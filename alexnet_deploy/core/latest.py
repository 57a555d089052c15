"""`runs/latest` and `bundles/latest`: a small text file naming the newest entry of its folder."""

from pathlib import Path

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.files import write_atomically

_NAME = "latest"


def set_latest(entry: Path) -> None:
    """Make `entry` the newest of the folder it lies in; raises OSError."""
    write_atomically(entry.parent / _NAME, f"{entry.name}\n".encode())


def get_latest(folder: Path, *, made_by: str) -> Path:
    """Return the newest entry of `folder`; `made_by` is the command that makes one, for the error.

    Raises UsageError where there is none, or the name there is leaves the folder.
    """
    pointer = folder / _NAME
    try:
        name = pointer.read_text().strip()
    except FileNotFoundError:
        raise UsageError(f"there is no {pointer} yet; `{made_by}` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{pointer}: cannot be read: {error}") from error
    if not name or Path(name).name != name:
        raise UsageError(f"{pointer}: holds {name!r}, where the name of an entry of {folder} is needed")
    return folder / name
