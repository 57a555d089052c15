"""Hidden names for unfinished files beside their final path, never longer than the file system allows."""

import hashlib
import os
from pathlib import Path

# Length of the random part of a temporary name, see tempfile, and of its suffix.
_TEMPORARY_BYTES = 8 + len(".partial")

_USUAL_LIMIT = 255


def hidden_beside(path: Path, ending: str) -> Path:
    """Return the path .NAME plus `ending` beside a path; a NAME that is too long is cut and gets a digest.

    The same path always gives the same name. `ending` is ASCII.
    """
    return path.with_name(_hidden_name(path, ending))


def temporary_prefix(path: Path) -> str:
    """Return the prefix of a temporary name beside a path, with room for tempfile's 8 letters and `.partial`."""
    return _hidden_name(path, "." + "x" * _TEMPORARY_BYTES)[:-_TEMPORARY_BYTES]


def _hidden_name(path: Path, ending: str) -> str:
    name = path.name
    room = _longest_name(path.parent) - 1 - len(ending)
    if len(os.fsencode(name)) > room:
        digest = "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
        # By characters, because some file systems accept whole ones only.
        while len(os.fsencode(name)) > room - len(digest):
            name = name[:-1]
        name += digest
    return f".{name}{ending}"


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _USUAL_LIMIT
