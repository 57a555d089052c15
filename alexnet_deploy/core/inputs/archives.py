"""Expand a tar archive to the files in it that each get one row, in the order of the archive.

- An archive is a file whose name ends with .tar, in any case. It is read header by header, in one pass, and nothing is
  unpacked to disk. The row of a member is named `shards/a.tar/000012.jpg`.
- WebDataset's form: consecutive members whose names agree up to the first dot of their last part are one sample. If
  a member of a sample has the ending of an image, such members are the inputs, and the sample's other members (.cls,
  .json) are not. The members of a sample without an image are inputs, like the files of a folder.
- Hidden members are skipped, as in folders. Links and special files are inputs with an error.
- An archive that is damaged, cut or compressed gives the rows of the members before the damage, then one row with an
  error for the archive itself.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from alexnet_deploy.core.codecs.formats import USUAL_ENDINGS
from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.core.fs.patience import patiently
from alexnet_deploy.core.images.decode import DecodeLimits, read_section
from alexnet_deploy.core.inputs.item import Input, StoredFile
from alexnet_deploy.core.tar_file import Member, NotTarError, ReadAt, TarError, UnsupportedError, members, reader_of

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Endings of archives; a compressed one gets a row that says so."""

_MOST_FIELDS = 1000
"""Members of one sample that are kept while no image has been seen among them: memory does not grow with a sample."""

_NOT_A_FILE = (
    "it is a link or a special file in an archive; archive the files themselves (`tar --dereference "
    "--hard-dereference`)"
)


class Archive(Protocol):
    """A tar archive, on disk or on a server."""

    def opened(self) -> AbstractContextManager[tuple[ReadAt, int]]:
        """Open it; return the function that reads it, and its size in bytes. Raises OSError."""

    def file(self, member: Member) -> StoredFile:
        """Return a member, not yet read or already at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A file inside a larger file on disk."""

    path: Path
    """The larger file."""
    offset: int
    """Byte offset of the file in it."""
    num_bytes: int
    """Size of the file."""

    def read(self, limits: DecodeLimits) -> bytes:
        """Return its bytes; raises ImageError."""
        return read_section(self.path, self.offset, self.num_bytes, limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalArchive:
    """A tar archive on disk."""

    path: Path

    @contextmanager
    def opened(self) -> Iterator[tuple[ReadAt, int]]:
        """Open the file; see Archive."""
        with patiently(lambda: open_input(self.path)) as file:
            read_at = reader_of(file)
            yield lambda offset, num_bytes: patiently(lambda: read_at(offset, num_bytes)), file.seek(0, 2)

    def file(self, member: Member) -> StoredFile:
        """Return where the member lies in the file."""
        return Section(path=self.path, offset=member.offset, num_bytes=member.num_bytes)


def is_archive(name: str) -> bool:
    """Return whether a file is a tar archive by its name."""
    return name.lower().endswith(_ENDINGS)


def expand_archive(name: str, archive: Archive) -> Iterator[Input]:
    """Yield an input for each file in an archive, and one for the archive itself if it cannot be read to its end."""
    try:
        with archive.opened() as (read_at, num_bytes):
            if not num_bytes:
                yield Input(name=name, error=(ImageErrorCode.EMPTY, "the file has no bytes"))
                return
            for member in _inputs_among(members(read_at, 0, num_bytes)):
                below = f"{name}/{member.name.removeprefix('./')}"
                if member.is_file:
                    yield Input(name=below, file=archive.file(member))
                else:
                    yield Input(name=below, error=(ImageErrorCode.UNREADABLE, _NOT_A_FILE))
    except TarError as error:
        yield Input(name=name, error=(_code_of(error), f"archive: {error}"))
    except FileNotFoundError:
        yield Input(name=name, error=(ImageErrorCode.MISSING, "there is no such file"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        yield Input(name=name, error=(ImageErrorCode.UNREADABLE, f"archive: {reason}"))


def _code_of(error: TarError) -> ImageErrorCode:
    if isinstance(error, UnsupportedError):
        return ImageErrorCode.UNSUPPORTED_FORMAT
    return ImageErrorCode.NOT_AN_IMAGE if isinstance(error, NotTarError) else ImageErrorCode.TRUNCATED


def _inputs_among(found: Iterator[Member]) -> Iterator[Member]:
    """Yield the members that are inputs, in order; all of those before an error come before it."""
    sample: str | None = None
    has_image = False
    others: list[Member] = []
    try:
        for member in found:
            if _is_hidden(member.name):
                continue
            if (key := _sample_of(member.name)) != sample:
                yield from others
                sample, has_image, others = key, False, []
            if PurePosixPath(member.name).suffix.lower() in USUAL_ENDINGS:
                others, has_image = [], True
                yield member
            elif not has_image:
                others.append(member)
                if len(others) > _MOST_FIELDS:
                    yield others.pop(0)
    except (TarError, OSError):
        yield from others
        raise
    yield from others


def _sample_of(name: str) -> str:
    """Return a member's name up to the first dot of its last part: WebDataset's key."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
