"""Expand the inputs of a command - files, folders, patterns, a list - to the files that each get one row.

- A folder expands to all files below it, sorted by the bytes of their names, without hidden ones (leading dot).
- Links to folders are followed, but each folder is walked only once per name or pattern. A link to a folder below the
  same name is skipped, because that folder is walked under its own name; so is a second link to a folder elsewhere.
- A name with `*`, `?` or `[` that does not exist as a file is a pattern, unless it is a Path or comes from a list; `**`
  spans folders and matches files only. An ending such as .jpg matches any case. A pattern without matches gives one
  input with the error `missing`.
- An image in memory is one input; an array (N, H, W, 3) is N inputs. They are called #0, #1 and so on, in order, within
  one call.
- A URL, such as s3://bucket/photos/, expands likewise (inputs/remote/expansion.py).
- A tar archive expands to the files in it (inputs/archives.py).
- `-` stands for a list of names, which inputs/lists.py expands.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from alexnet_deploy.core.errors import DataError, ImageErrorCode, UsageError
from alexnet_deploy.core.fs.patience import patiently
from alexnet_deploy.core.inputs.archives import LocalArchive, expand_archive, is_archive
from alexnet_deploy.core.inputs.in_memory import ImageInMemory, images_in, is_in_memory, refuse_other_layouts
from alexnet_deploy.core.inputs.item import Input, encoded_name
from alexnet_deploy.core.inputs.patterns import fits, with_ending_in_any_case
from alexnet_deploy.core.inputs.remote.expansion import expand_url
from alexnet_deploy.core.inputs.remote.urls import forget_containers, is_url, refusal_of, refuse_missing_packages

__all__ = ["Input", "Source", "as_sources", "exists", "expand_name", "find_files", "find_inputs", "input_of"]

_Identity: TypeAlias = tuple[int, int]
"""A folder's device and inode. Walked folders are remembered: otherwise 22 levels of two links to the next level would
give four million rows."""

Source: TypeAlias = str | Path | ImageInMemory
"""An input: a name, or the image itself."""


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
    forget_containers()
    return _expand_all(sources)


def find_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in the order of find_inputs; raises DataError for an unreadable folder.

    An archive is one file.
    """
    for found in _walk(os.fspath(folder), set()):
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
        if isinstance(source, str) and is_url(source) and not exists(source):
            refuse_missing_packages(source)
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
    elif is_url(name) and not exists(name):
        yield from expand_url(name, is_pattern=is_pattern)
    elif "\0" in name or not exists(name):
        if (refusal := refusal_of(name)) is not None:
            shown, reason = refusal
            item = Input(name=shown, error=(ImageErrorCode.MISSING, reason))
        matches = iter(_matches(name) if is_pattern and "\0" not in name else ())
        yield from _with_archives(chain([next(matches, item)], matches))
    else:
        yield from _with_archives(_walk(name, set()))


def _with_archives(found: Iterable[Input]) -> Iterator[Input]:
    for item in found:
        if item.error is None and is_archive(item.name):
            yield from expand_archive(item.name, LocalArchive(path=item.path))
        else:
            yield item


def _named(name: str) -> Input:
    if not name:
        # Path("") is the working directory, but an empty name is usually an unset variable.
        return Input(name=name, error=(ImageErrorCode.MISSING, "the name is empty"))
    if encoded_name(name) is None:
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


def _matches(name: str) -> Iterator[Input]:
    pattern = Path(with_ending_in_any_case(name))
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
            if not tail or found.error or (below and fits(below, tail)):
                yield replace(found, name=f"{prefix}{found.path}")


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
