"""From what a person names - files, folders, patterns, a list - to the files that each get one row.

- A folder gives every file below it, in the order of the bytes of their names, hidden ones (leading dot) excepted.
- Links to folders are followed, unless they lead back to a folder they lie in: such a link is an input of its own,
  which cannot be read.
- A name with `*`, `?` or `[` that is no file is a pattern, unless it comes as a Path or from a list; `**` spans
  folders, and stands for files only. Its ending, as .jpg, fits any case. A pattern that matches nothing is an input
  that is missing.
- `-` reads names from a list, one a line; empty lines are passed over. A list that is still being written may say that
  there is nothing more for now, so that nobody waits for the next name to have the row of the last.
"""

import fnmatch
import glob
import io
import os
import select
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from alexnet_deploy.core.errors import ImageErrorCode, UsageError

# A list that comes faster than this fills whole batches.
_PATIENCE_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file that gets one row."""

    name: str
    """As it was found: what was named, and below a folder what follows; not made absolute."""
    error: tuple[ImageErrorCode, str] | None = None
    """Why it cannot even be tried, where that is known already."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.name)

    @property
    def text(self) -> str:
        r"""The name as text that any encoding can hold: bytes that are not UTF-8 are written as \xNN."""
        encoded = _encoded(self.name)
        if encoded is None:
            encoded = self.name.encode("utf-8", "backslashreplace")
        return encoded.decode("utf-8", "backslashreplace")


PAUSE = Input(name="", error=(ImageErrorCode.MISSING, "the list holds no more names for now"))
"""Stands between inputs, and is none itself: what came before it is awaited."""


def find_inputs(names: Iterable[str | Path], listed: Iterable[bytes | None] | None = None) -> Iterator[Input]:
    """Return the files that `names` stand for, in order; where a name is `-`, those of `listed` (lines of bytes).

    They are looked for as they are asked for. For a None in `listed` there is a PAUSE among them. Raises UsageError at
    once for a `-` without a list.
    """
    named = tuple(names)
    if "-" in named and listed is None:
        raise UsageError("the name - stands for a list of names, and none was given")
    return _expand_all(named, listed or ())


def read_list(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a list, and None where it holds no more for now: another program may still be writing it."""
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        # It is in memory, where all of it is there.
        yield from file
        return
    begun: list[bytes] = []
    while True:
        if not select.select([descriptor], [], [], _PATIENCE_SECONDS)[0]:
            yield None
            select.select([descriptor], [], [])
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        rest, *more = data.split(b"\n")
        begun.append(rest)
        for line in more:
            yield b"".join(begun)
            begun = [line]
    yield b"".join(begun)


def _expand_all(names: Iterable[str | Path], listed: Iterable[bytes | None]) -> Iterator[Input]:
    for name in names:
        if name == "-":
            for line in listed:
                if line is None:
                    yield PAUSE
                elif stripped := line.rstrip(b"\r\n"):
                    yield from _expand(os.fsdecode(stripped), is_pattern=False)
        else:
            yield from _expand(os.fspath(name), is_pattern=isinstance(name, str) and glob.has_magic(name))


def _expand(name: str, *, is_pattern: bool) -> Iterator[Input]:
    if not name:
        # Path("") is the working directory, which an unset variable does not mean.
        yield Input(name=name, error=(ImageErrorCode.MISSING, "the name is empty"))
    elif _encoded(name) is None:
        yield Input(name=name, error=(ImageErrorCode.MISSING, "no file can have such a name"))
    elif "\0" in name or not os.path.lexists(name):
        matches = iter(_matches(name) if is_pattern and "\0" not in name else ())
        yield next(matches, Input(name=name))
        yield from matches
    else:
        yield from _walk(name)


def _encoded(name: str) -> bytes | None:
    """Return the name as the file system has it; None for text that it cannot hold, as one half of a surrogate pair."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return None


def _matches(name: str) -> Iterator[Input]:
    pattern = Path(_with_ending_in_any_case(name))
    # Path drops a leading ./ that the rows are to keep.
    prefix = "./" if name.startswith("./") else ""
    # `**` is ours, not glob's, which would follow a link to a folder around its loop until names grow too long.
    cut = pattern.parts.index("**") if "**" in pattern.parts else len(pattern.parts)
    head, tail = Path(*pattern.parts[:cut]), pattern.parts[cut:]
    # Path.glob takes no absolute pattern.
    for start in sorted(glob.glob(str(head)), key=os.fsencode) if glob.has_magic(str(head)) else [str(head)]:  # noqa: PTH207
        for found in _walk(start):
            below = found.path.relative_to(start).parts
            # A folder that cannot be read may hold what was asked for.
            if not tail or found.error or (below and _fits(below, tail)):
                yield replace(found, name=f"{prefix}{found.path}")


def _with_ending_in_any_case(pattern: str) -> str:
    """Return *.jpg as *.[jJ][pP][gG]: an ending names a format, and cameras write .JPG."""
    stem, dot, ending = pattern.rpartition(".")
    if not dot or not ending.isalnum():
        return pattern
    both = (f"[{char.lower()}{char.upper()}]" if char.isascii() and char.isalpha() else char for char in ending)
    return f"{stem}.{''.join(both)}"


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _walk(start: str) -> Iterator[Input]:
    # A stack, not recursion: folders may nest deeper than Python's own calls. Of each folder it holds the names that
    # are still to come, which are joined to paths one by one: a million of them would take a second.
    stack: list[tuple[Iterator[str], frozenset[tuple[int, int]]]] = [(iter([start]), frozenset())]
    while stack:
        names, ancestors = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
            continue
        try:
            if not Path(name).is_dir():
                yield Input(name=name)
                continue
            status = Path(name).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                yield Input(name=name, error=(ImageErrorCode.UNREADABLE, "a link to a folder that it lies in"))
                continue
            stack.append((_names_in(name), ancestors | {identity}))
        except OSError as error:
            yield Input(name=name, error=(ImageErrorCode.UNREADABLE, error.strerror or str(error)))


def _names_in(folder: str) -> Iterator[str]:
    below = os.listdir(os.fsencode(folder))  # noqa: PTH208
    below.sort()
    return (os.path.join(folder, os.fsdecode(name)) for name in below if not name.startswith(b"."))  # noqa: PTH118
