"""Expand URLs - files, folders, patterns, archives - to the files that each get one row, as local names are.

- A folder expands to all files below it, without hidden ones, in the order of the bytes of their names; one folder is
  listed at a time. On a web server (http, https) every URL is one file, and never a pattern.
- A name with `*`, `?` or `[` that does not exist is a pattern, unless it comes from a list.
- A folder that cannot be listed, or a name that is not there, is one input with an error.
- A name from a list is a file, and costs no question to the server, unless it ends with /.
"""

import fnmatch
import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.core.inputs.archives import expand_archive, is_archive
from alexnet_deploy.core.inputs.item import Input, StoredFile
from alexnet_deploy.core.inputs.patterns import fits, with_ending_in_any_case
from alexnet_deploy.core.inputs.remote.reading import RemoteFile, RemoteSection, read_part, size_of
from alexnet_deploy.core.inputs.remote.retries import remotely
from alexnet_deploy.core.inputs.remote.urls import file_system_of, is_web, masked, refuse_missing_packages, scheme_of
from alexnet_deploy.core.tar_file import Member, ReadAt

_WINDOW_BYTES = 1 << 20


def expand_url(url: str, *, is_pattern: bool) -> Iterator[Input]:
    """Yield the inputs that a URL expands to; raises UsageError if a package that it needs is not installed."""
    refuse_missing_packages(url)
    if is_web(url):
        return _file(url, RemoteFile(url=url))
    return _expand(url, is_pattern=is_pattern and glob.has_magic(url.partition("::")[0]))


def expand_listed_url(url: str) -> Iterator[Input]:
    """Yield the inputs of a URL in a list: the file itself, without asking whether it exists, or a folder's files."""
    if url.partition("::")[0].endswith("/"):
        return expand_url(url, is_pattern=False)
    refuse_missing_packages(url)
    return _file(url, RemoteFile(url=url))


def file_at(url: str) -> Input:
    """Return the file at a URL, without asking whether it exists; raises UsageError if a package is not installed."""
    refuse_missing_packages(url)
    return Input(name=masked(url), file=RemoteFile(url=url))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A file or folder in a listing."""

    path: str
    """Its path in the file system."""
    below: tuple[str, ...]
    """Its name and those of the folders above it, up to the start of the walk."""
    is_folder: bool
    num_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """A folder whose files are inputs."""

    url: str
    """The folder as it was given, in a chain with what it is chained to."""
    pattern: tuple[str, ...] = ()
    """What the names below the folder must match; empty for all."""

    def name_of(self, below: tuple[str, ...]) -> str:
        """Return the URL of a name below the folder."""
        head, chained, tail = self.url.partition("::")
        base = head if head.endswith(("://", "/")) or not below else f"{head}/"
        return f"{base}{'/'.join(below)}{chained}{tail}"

    def holds(self, entry: _Entry) -> bool:
        """Return whether a file is an input, or a folder may hold some."""
        for place, part in enumerate(entry.below):
            wanted = self.pattern[place] if place < len(self.pattern) else "*"
            if wanted == "**":
                is_hidden = any(name.startswith(".") for name in entry.below[place:])
                return not is_hidden and (entry.is_folder or fits(entry.below, self.pattern))
            if part.startswith(".") and not wanted.startswith("."):
                return False
            if not fnmatch.fnmatchcase(part, wanted):
                return False
        return entry.is_folder or len(entry.below) >= len(self.pattern)


def _expand(url: str, *, is_pattern: bool) -> Iterator[Input]:
    try:
        system, path = remotely(lambda: file_system_of(url))
        found = remotely(lambda: _as_found(system.info(path), path))
    except OSError as error:
        if is_pattern:
            # A store may call a name with a * invalid, not missing. What cannot be listed is reported there.
            yield from _matches(url)
        elif isinstance(error, FileNotFoundError):
            yield Input(name=masked(url), error=(ImageErrorCode.MISSING, "there is no such file"))
        else:
            yield _unreadable(url, error)
    else:
        if found.is_folder:
            yield from _walk(_Tree(url=url), path)
        else:
            yield from _file(url, RemoteFile(url=url, num_bytes=found.num_bytes))


def _as_found(found: dict[str, object], path: str) -> _Entry:
    return _Entry(path=path, below=(), is_folder=found["type"] == "directory", num_bytes=_size_in(found))


def _matches(url: str) -> Iterator[Input]:
    head, chained, tail = url.partition("::")
    scheme, _, given = head.partition("://")
    parts = [part for part in with_ending_in_any_case(given).split("/") if part]
    place = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    # The first part may be empty, as in memory:///folder.
    fixed = [part for part in given.split("/") if part][:place]
    slashes = given[: len(given) - len(given.lstrip("/"))]
    tree = _Tree(url=f"{scheme}://{slashes}{'/'.join(fixed)}{chained}{tail}", pattern=tuple(parts[place:]))
    try:
        _, path = remotely(lambda: file_system_of(tree.url))
    except OSError as error:
        yield _unreadable(tree.url, error)
        return
    is_empty = True
    for item in _walk(tree, path):
        is_empty = False
        yield item
    if is_empty:
        yield Input(name=masked(url), error=(ImageErrorCode.MISSING, "no file matches the pattern"))


def _walk(tree: _Tree, root: str) -> Iterator[Input]:
    # A stack, as for local folders; each level holds the listing of one folder.
    stack = [iter([_Entry(path=root, below=(), is_folder=True, num_bytes=None)])]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif not tree.holds(entry):
            continue
        elif entry.below[-1:] == ("",):
            name = masked(tree.name_of(entry.below))
            yield Input(name=name, error=(ImageErrorCode.UNREADABLE, "names with two slashes in a row are not read"))
        elif entry.is_folder:
            try:
                stack.append(iter(_listing(tree, entry)))
            except FileNotFoundError as error:
                # It has gone since the folder above was listed, or a pattern starts in a folder that is not there.
                if entry.below:
                    yield _unreadable(tree.name_of(entry.below), error)
            except OSError as error:
                yield _unreadable(tree.name_of(entry.below), error)
        else:
            file = RemoteFile(url=tree.url, path=entry.path, num_bytes=entry.num_bytes)
            yield from _file(tree.name_of(entry.below), file)


def _listing(tree: _Tree, folder: _Entry) -> list[_Entry]:
    """Return what a folder holds, sorted by the bytes of the names."""

    def look() -> list[_Entry]:
        system, _ = file_system_of(tree.url)
        return [entry for found in system.ls(folder.path, detail=True) if (entry := _entry_of(found, folder))]

    return sorted(remotely(look), key=lambda entry: entry.below[-1].encode("utf-8", "surrogateescape"))


def _entry_of(found: dict[str, object], folder: _Entry) -> _Entry | None:
    path = str(found["name"])
    is_folder = found["type"] == "directory"
    is_itself = path.strip("/") == folder.path.strip("/")
    if is_itself and not is_folder:
        # An empty object that stands for the folder.
        return None
    # A folder without a name holds the keys with two slashes in a row.
    below = (*folder.below, "" if is_itself else path.rstrip("/").rpartition("/")[2])
    return _Entry(path=path, below=below, is_folder=is_folder, num_bytes=_size_in(found))


def _size_in(found: dict[str, object]) -> int | None:
    size = found.get("size")
    return size if isinstance(size, int) else None


def _file(url: str, file: RemoteFile) -> Iterator[Input]:
    name, head = masked(url), url.partition("::")[0]
    last = url.partition("?")[0] if is_web(url) else head
    # Not in a zip archive: each part of a compressed file is read from its beginning.
    if is_archive(last) and scheme_of(url) != "zip":
        yield from expand_archive(name, _RemoteArchive(file))
    else:
        yield Input(name=name, file=file)


def _unreadable(url: str, error: OSError) -> Input:
    return Input(name=masked(url), error=(ImageErrorCode.UNREADABLE, error.strerror or str(error)))


class _RemoteArchive:
    """A tar archive behind a URL, read in windows: most images lie in one, and then need no request of their own."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._start, self._window = 0, b""

    @contextmanager
    def opened(self) -> Iterator[tuple[ReadAt, int]]:
        """See Archive; reads nothing but the size."""
        size = remotely(lambda: size_of(self._file))
        yield lambda offset, num_bytes: self._read_at(offset, num_bytes, size), size

    def file(self, member: Member) -> StoredFile:
        """Return a member: from the window, or as a part of the archive."""
        begin, data = member.offset - self._start, None
        if begin >= 0 and begin + member.num_bytes <= len(self._window):
            data = self._window[begin : begin + member.num_bytes]
        return RemoteSection(archive=self._file, offset=member.offset, num_bytes=member.num_bytes, data=data)

    def _read_at(self, offset: int, num_bytes: int, size: int) -> bytes:
        begin = offset - self._start
        if begin < 0 or begin + num_bytes > len(self._window):
            wanted = min(max(num_bytes, _WINDOW_BYTES), size - offset)
            self._window = remotely(lambda: read_part(self._file, offset, wanted))
            self._start, begin = offset, 0
        return self._window[begin : begin + num_bytes]
