"""Names for what is being made beside its place: hidden, and short enough wherever the finished name is."""

import hashlib
import os
from pathlib import Path

# Of a temporary name's random part, and what follows it: see tempfile.
_TEMPORARY_BYTES = 8 + len(".partial")

_USUAL_LIMIT = 255


def hidden_beside(path: Path, ending: str) -> Path:
    """Return .NAME and the ending beside a path; a NAME that leaves no room for them is cut, and a digest joined to it.

    The same path has the same name each time. `ending` is ASCII.
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
        # By characters, as some file systems take whole ones only.
        while len(os.fsencode(name)) > room - len(digest):
            name = name[:-1]
        name += digest
    return f".{name}{ending}"


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _USUAL_LIMIT
