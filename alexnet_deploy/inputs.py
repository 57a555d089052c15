"""From what a person names - files, folders, patterns, a list - to the files that each get one row.

- A folder gives every file below it, in the order of the bytes of their names, hidden ones (leading dot) excepted.
- Links to folders are followed, unless they lead back to a folder they lie in: such a link is an input of its own,
  which cannot be read.
- A name with `*`, `?` or `[` that is no file is a pattern; `**` spans folders. One that matches nothing is an input
  that is missing.
- `-` reads names from a list, one a line.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.core.errors import ImageErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file that gets one row."""

    path: Path
    """As it was found: below what was named, not made absolute."""
    error: tuple[ImageErrorCode, str] | None = None
    """Why it cannot even be tried, where that is known already."""

    @property
    def text(self) -> str:
        r"""The path as text that any encoding can hold: bytes that are not UTF-8 are written as \udcXX."""
        return os.fspath(self.path).encode("utf-8", "backslashreplace").decode()


def find_inputs(names: Iterable[str], listed: Iterable[bytes] = ()) -> Iterator[Input]:
    """Yield the files that `names` stand for, in order; where a name is `-`, those of `listed` (lines of bytes)."""
    for name in names:
        if name == "-":
            for line in listed:
                if stripped := line.rstrip(b"\r\n"):
                    yield from _expand(os.fsdecode(stripped))
        else:
            yield from _expand(name)


def _expand(name: str) -> Iterator[Input]:
    path = Path(name)
    if os.path.lexists(path):
        yield from _walk(path)
    # Path.glob takes no absolute pattern.
    elif glob.has_magic(name) and (matches := sorted(glob.glob(name, recursive=True), key=os.fsencode)):  # noqa: PTH207
        for match in matches:
            # `**` lists the files of a folder beside the folder itself: only the files are taken.
            if "**" not in name or not Path(match).is_dir():
                yield from _walk(Path(match))
    else:
        yield Input(path=path)


def _walk(start: Path) -> Iterator[Input]:
    # A stack, not recursion: folders may nest deeper than Python's own calls.
    stack: list[tuple[Path, frozenset[tuple[int, int]]]] = [(start, frozenset())]
    while stack:
        path, ancestors = stack.pop()
        try:
            if not path.is_dir():
                yield Input(path=path)
                continue
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                yield Input(path=path, error=(ImageErrorCode.UNREADABLE, "a link to a folder that it lies in"))
                continue
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            yield Input(path=path, error=(ImageErrorCode.UNREADABLE, error.strerror or str(error)))
            continue
        names.sort(key=os.fsencode, reverse=True)
        stack.extend((path / name, ancestors | {identity}) for name in names)
