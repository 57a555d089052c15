"""Expand the inputs of a command - files, folders, patterns, a list - to the files that each get one row.

- A folder expands to all files below it, sorted by the bytes of their names, without hidden ones (leading dot).
- Links to folders are followed, but each folder is walked only once per name or pattern. A link to a folder below the
  same name is skipped, because that folder is walked under its own name; so is a second link to a folder elsewhere.
- A name with `*`, `?` or `[` that does not exist as a file is a pattern, unless it is a Path or comes from a list; `**`
  spans folders and matches files only. An ending such as .jpg matches any case. A pattern without matches gives one
  input with the error `missing`.
- An image in memory is one input; an array (N, H, W, 3) is N inputs. They are called #0, #1 and so on, in order, within
  one call.
- `-` stands for a list of names, which inputs/lists.py expands.
"""

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from alexnet_deploy.core.errors import DataError, ImageErrorCode, UsageError
from alexnet_deploy.core.fs.patience import patiently
from alexnet_deploy.core.images.batches import StoredImage
from alexnet_deploy.core.inputs.in_memory import ImageInMemory, images_in, is_in_memory, refuse_other_layouts

_Identity: TypeAlias = tuple[int, int]
"""A folder's device and inode. Walked folders are remembered: otherwise 22 levels of two links to the next level would
give four million rows."""

Source: TypeAlias = str | Path | ImageInMemory
"""An input: a name, or the image itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file, one image in memory or one in a larger file, that gets one row."""

    name: str
    """The given name, plus the path below it for a folder; not made absolute. Images in memory are # and a number."""
    held: bytes | Image.Image | np.ndarray | None = field(default=None, compare=False, repr=False)
    """The image itself if it is in memory: an image file's bytes, a PIL image or uint8 (H, W, 3); None for a file."""
    stored: StoredImage | None = field(default=None, compare=False, repr=False)
    """The image in a larger file, such as an archive; None for a file of its own."""
    error: tuple[ImageErrorCode, str] | None = None
    """The reason if it is already known that the input cannot be read."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        return Path(self.name)

    @property
    def text(self) -> str:
        r"""The name as text that UTF-8 can encode: bytes that are not UTF-8 are written as \xNN."""
        encoded = _encoded(self.name)
        if encoded is None:
            encoded = self.name.encode("utf-8", "backslashreplace")
        return encoded.decode("utf-8", "backslashreplace")


def as_sources(sources: Iterable[Source] | Source) -> Iterable[Source]:
    """Return the sources as an iterable; a single name or image, which is iterable itself, is wrapped in a list."""
    if isinstance(sources, str | Path | bytes | bytearray | memoryview | Image.Image | np.ndarray):
        return [sources]
    return sources


def find_inputs(sources: Iterable[Source]) -> Iterator[Input]:
    """Return the inputs that `sources` expand to, in order.

    The expansion is lazy. Raises UsageError for a `-`, an array of another layout, or a value that is not a source: at
    once if `sources` is a sequence, else when it is reached.
    """
    if isinstance(sources, Sequence):
        for source in sources:
            _refuse(source)
    return _expand_all(sources)


def find_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in the order of find_inputs; raises DataError for an unreadable folder."""
    for found in find_inputs([folder]):
        if found.error is not None:
            raise DataError(f"{found.text}: cannot be read: {found.error[1]}")
        yield found.path


def input_of(source: Source) -> Input:
    """Return the single input for a file name (never a pattern) or an image in memory.

    Raises UsageError for an array of several images or of another layout, and for a value that is not a source.
    """
    if isinstance(source, str | Path):
        return _named(os.fspath(source))
    _refuse(source)
    if isinstance(source, np.ndarray) and source.ndim == 4 and len(source) != 1:
        raise UsageError(f"expected one image, got an array {source.shape} of {len(source)} images: use predict")
    return Input(name="#0", held=next(images_in(source)))


def _refuse(source: Source) -> None:
    if isinstance(source, str | Path):
        if source == "-":
            raise UsageError(
                "the name - stands for a list of names on stdin, which only the command predict reads; pass the names "
                "themselves"
            )
    elif is_in_memory(source):
        refuse_other_layouts(source)
    else:
        kinds = "a path, the bytes of an image file, a PIL image or an array, uint8 (H, W, 3)"
        raise UsageError(f"an image must be {kinds}, got {type(source).__name__}")


def _expand_all(sources: Iterable[Source]) -> Iterator[Input]:
    numbers = count()
    for source in sources:
        _refuse(source)
        if not isinstance(source, str | Path):
            for held in images_in(source):
                yield Input(name=f"#{next(numbers)}", held=held)
        else:
            yield from expand_name(os.fspath(source), is_pattern=isinstance(source, str) and glob.has_magic(source))


def expand_name(name: str, *, is_pattern: bool) -> Iterator[Input]:
    """Yield the inputs that one name expands to; it is taken literally if it exists or `is_pattern` is False."""
    item = _named(name)
    if item.error is not None:
        yield item
    elif "\0" in name or not exists(name):
        matches = iter(_matches(name) if is_pattern and "\0" not in name else ())
        yield next(matches, item)
        yield from matches
    else:
        yield from _walk(name, set())


def _named(name: str) -> Input:
    if not name:
        # Path("") is the working directory, but an empty name is usually an unset variable.
        return Input(name=name, error=(ImageErrorCode.MISSING, "the name is empty"))
    if _encoded(name) is None:
        return Input(name=name, error=(ImageErrorCode.MISSING, "the name is not valid for a file"))
    return Input(name=name)


def exists(name: str) -> bool:
    """Return whether a name exists, as a file, folder or link."""
    try:
        patiently(lambda: os.lstat(name))
    except (OSError, ValueError):
        # Reading it will report the reason.
        return False
    return True


def _encoded(name: str) -> bytes | None:
    """Return the name encoded for the file system; None if that is not possible, as for half a surrogate pair."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return None


def _matches(name: str) -> Iterator[Input]:
    pattern = Path(_with_ending_in_any_case(name))
    # Path drops a leading ./, which the rows must keep.
    prefix = "./" if name.startswith("./") else ""
    # `**` is not left to glob, which would follow a loop of links until the names are too long.
    cut = pattern.parts.index("**") if "**" in pattern.parts else len(pattern.parts)
    head, tail = Path(*pattern.parts[:cut]), pattern.parts[cut:]
    # Not Path.glob, which does not accept absolute patterns.
    seen: set[_Identity] = set()
    for start in sorted(glob.glob(str(head)), key=os.fsencode) if glob.has_magic(str(head)) else [str(head)]:  # noqa: PTH207
        for found in _walk(start, seen):
            below = found.path.relative_to(start).parts
            # An unreadable folder may hold matching files, so its error is an input.
            if not tail or found.error or (below and _fits(below, tail)):
                yield replace(found, name=f"{prefix}{found.path}")


def _with_ending_in_any_case(pattern: str) -> str:
    """Return *.jpg as *.[jJ][pP][gG]: an ending stands for a format, and cameras write .JPG."""
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


def _walk(start: str, seen: set[_Identity]) -> Iterator[Input]:
    # A stack, not recursion: folders may be nested deeper than Python's recursion limit. It holds the remaining names
    # of each folder, which are joined to paths lazily: joining a million at once takes a second.
    stack = [iter([start])]
    while stack:
        name = next(stack[-1], None)
        if name is None:
            stack.pop()
            continue
        try:
            if not patiently(Path(name).is_dir):
                yield Input(name=name)
                continue
            status = patiently(Path(name).stat)
            identity = (status.st_dev, status.st_ino)
            if identity in seen or (name != start and _has_a_name_below(start, name)):
                continue
            below = _names_in(name)
            seen.add(identity)
            stack.append(below)
        except OSError as error:
            yield Input(name=name, error=(ImageErrorCode.UNREADABLE, error.strerror or str(error)))


def _has_a_name_below(start: str, name: str) -> bool:
    """Return whether a name is a link to a folder that is walked below `start` under its own name."""
    if not Path(name).is_symlink():
        return False
    home, place = Path(start).resolve(), Path(name).resolve()
    return place.is_relative_to(home) and not any(part.startswith(".") for part in place.relative_to(home).parts)


def _names_in(folder: str) -> Iterator[str]:
    below = patiently(lambda: os.listdir(os.fsencode(folder)))  # noqa: PTH208
    below.sort()
    return (os.path.join(folder, os.fsdecode(name)) for name in below if not name.startswith(b"."))  # noqa: PTH118
