"""Labelled pictures to a packed set, in one pass that goes on where it was interrupted.

    .OUT.partial/plan.json        what is packed into what; another plan is refused
    .OUT.partial/journal.jsonl    a line for each chunk of pictures that has reached the disk
    .OUT.partial/pack/            what becomes OUT, by one rename, when it is whole

A chunk's line is written after its pictures are: what the journal does not name is cut off and made again, what it
names is compared with its digest before it is relied on.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.files import sha256, sha256_of_file, sync_directory, write_atomically
from alexnet_deploy.core.inputs import Input
from alexnet_deploy.core.preprocessing import RGB, ResizePolicy
from alexnet_deploy.core.say import Say, say_nothing
from alexnet_deploy.core.versions import tool_versions
from alexnet_deploy.train.dataset import ColorSums, Look, look_at_each
from alexnet_deploy.train.packed import (
    FORMAT_VERSION,
    HEADER,
    LABELS,
    PICTURE_BYTES,
    PICTURES,
    SOURCES,
    Pack,
    PackHeader,
    digests_of,
    encode_header,
    open_pack,
)
from alexnet_deploy.train.sources import Example, PictureSource, check_source

# 201 MB: an interruption loses a second or two of work, and ImageNet has 1,300 digests.
CHUNK_PICTURES = 1024

OnProgress = Callable[[int, int], None]

_PLAN = "plan.json"
_JOURNAL = "journal.jsonl"
_STAGE = "pack"


class _Plan(Struct, frozen=True, kw_only=True):
    """What makes two runs the same work."""

    format_version: int
    source: str
    examples_sha256: str
    resize: ResizePolicy
    chunk_pictures: int
    tools: dict[str, str]


class _Chunk(Struct, frozen=True, kw_only=True):
    """A chunk that has reached the disk, and where everything stood after it."""

    num_seen: int
    num_pictures: int
    sources_bytes: int
    sha256: str
    sources_sha256: str
    excluded: tuple[tuple[int, str, str], ...]
    """Place in the source, name, error code."""
    num_pixels: int
    total: tuple[int, ...]
    products: tuple[tuple[int, ...], ...]
    """Of the training pictures, as ColorSums."""


def pack(
    source: PictureSource,
    out: Path,
    resize: ResizePolicy,
    *,
    threads: int | None = None,
    chunk_pictures: int = CHUNK_PICTURES,
    say: Say = say_nothing,
    on_progress: OnProgress = lambda num_seen, num_examples: None,
) -> Pack:
    """Decode every picture of a source once, and publish them as a packed set at `out`.

    Pictures that cannot be decoded are left out and listed. An interruption, or a process that is killed, leaves
    `.OUT.partial` beside `out`: the same call goes on from there. The result is the same, byte for byte.

    Raises UsageError where `out` exists, DataError where another process is at it, too few pictures can be decoded, or
    it cannot be written.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; choose another place for the packed set")
    partial = out.with_name(f".{out.name}.partial")
    work = _Work(
        source=source,
        examples=(*source.train, *source.validation),
        resize=resize,
        chunk_pictures=chunk_pictures,
        stage=partial / _STAGE,
        out=out,
    )
    try:
        work.stage.mkdir(parents=True, exist_ok=True)
        with _claimed(partial) as journal:
            _agree_on_plan(partial / _PLAN, work)
            chunks = _recover(work, journal, say, threads)
            _refuse_small_disk(work, chunks)
            chunks += _write_rest(work, journal, chunks, threads, on_progress)
            _publish(work, chunks)
        shutil.rmtree(partial)
    except OSError as error:
        raise DataError(
            f"{partial}: could not be written: {error.strerror or error}; what is packed is kept, and the same command "
            "goes on from there"
        ) from error
    return open_pack(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    source: PictureSource
    examples: Sequence[Example]
    resize: ResizePolicy
    chunk_pictures: int
    stage: Path
    out: Path

    @property
    def source_text(self) -> str:
        return Input(name=str(self.source.root.resolve())).text


@dataclass(slots=True, kw_only=True)
class _Draft:
    """The chunk that is being written."""

    num_seen: int
    num_pictures: int
    sources_bytes: int
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    sources_digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    excluded: list[tuple[int, str, str]] = field(default_factory=list)
    sums: ColorSums = field(default_factory=ColorSums)

    @classmethod
    def after(cls, chunks: Sequence[_Chunk]) -> "_Draft":
        if not chunks:
            return cls(num_seen=0, num_pictures=0, sources_bytes=0)
        last = chunks[-1]
        return cls(num_seen=last.num_seen, num_pictures=last.num_pictures, sources_bytes=last.sources_bytes)

    def add(self, look: Look, pictures: BinaryIO, sources: BinaryIO, *, is_train: bool) -> None:
        if look.error is not None:
            self.excluded.append((self.num_seen, look.name, look.error.code.value))
        else:
            data = look.pixels.data
            pictures.write(data)
            sources.write(look.line)
            self.digest.update(data)
            self.sources_digest.update(look.line)
            self.num_pictures += 1
            self.sources_bytes += len(look.line)
            if is_train:
                self.sums.add(look.sums)
        self.num_seen += 1

    def finished(self) -> _Chunk:
        return _Chunk(
            num_seen=self.num_seen,
            num_pictures=self.num_pictures,
            sources_bytes=self.sources_bytes,
            sha256=self.digest.hexdigest(),
            sources_sha256=self.sources_digest.hexdigest(),
            excluded=tuple(self.excluded),
            num_pixels=self.sums.num_pixels,
            total=tuple(self.sums.total.tolist()),
            products=tuple(tuple(row) for row in self.sums.products.tolist()),
        )


@contextmanager
def _claimed(partial: Path) -> Iterator[BinaryIO]:
    """Open the journal for this process alone, until it ends, however it ends."""
    with (partial / _JOURNAL).open("a+b", buffering=0) as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{partial}: another process is packing into it; wait for that one") from error
        yield journal


def _agree_on_plan(path: Path, work: _Work) -> None:
    digest = hashlib.sha256()
    for example in work.examples:
        digest.update(f"{os.fsencode(example.name)!r} {example.label}\n".encode())
    plan = _Plan(
        format_version=FORMAT_VERSION,
        source=work.source_text,
        examples_sha256=digest.hexdigest(),
        resize=work.resize,
        chunk_pictures=work.chunk_pictures,
        tools=tool_versions(),
    )
    data = msgspec.json.encode(plan)
    if not path.exists():
        write_atomically(path, data)
    elif path.read_bytes() != data:
        raise DataError(
            f"{path.parent}: was begun with other pictures, options or versions; remove it, or choose another place"
        )


def _recover(work: _Work, journal: BinaryIO, say: Say, threads: int | None) -> list[_Chunk]:
    """Return the chunks that are there and whole, and cut off whatever follows them."""
    noted = _noted(journal)
    pictures, sources = work.stage / PICTURES, work.stage / SOURCES
    for path in (pictures, sources):
        path.touch()
    for path in work.stage.iterdir():
        # What a publication that was killed has left.
        if path not in (pictures, sources):
            path.unlink()
    lines = memoryview(sources.read_bytes())
    digests = digests_of(pictures, _ranges([chunk for chunk, _ in noted]), threads)
    good: list[_Chunk] = []
    length = position = 0
    for (chunk, line_bytes), digest in zip(noted, digests, strict=True):
        if digest != chunk.sha256 or sha256(bytes(lines[position : chunk.sources_bytes])) != chunk.sources_sha256:
            say(f"{pictures}: pictures from {_Draft.after(good).num_pictures:,} on are damaged, and made again")
            break
        good.append(chunk)
        length, position = length + line_bytes, chunk.sources_bytes
    os.ftruncate(journal.fileno(), length)
    os.truncate(pictures, _Draft.after(good).num_pictures * PICTURE_BYTES)
    os.truncate(sources, position)
    if good:
        say(f"going on after {good[-1].num_seen:,} of {len(work.examples):,} pictures, which are as they were written")
    return good


def _noted(journal: BinaryIO) -> list[tuple[_Chunk, int]]:
    """Return the journal's chunks and the length of each line, up to one that was not written to its end."""
    journal.seek(0)
    noted = []
    for line in journal.read().splitlines(keepends=True):
        try:
            chunk = msgspec.json.decode(line, type=_Chunk)
        except msgspec.DecodeError:
            break
        if not line.endswith(b"\n"):
            break
        noted.append((chunk, len(line)))
    return noted


def _ranges(chunks: Sequence[_Chunk]) -> list[range]:
    """Return which pictures each chunk holds; the last may hold none."""
    ends = [chunk.num_pictures for chunk in chunks]
    return [range(start, end) for start, end in pairwise([0, *ends])]


def _refuse_small_disk(work: _Work, chunks: Sequence[_Chunk]) -> None:
    needed = (len(work.examples) - _Draft.after(chunks).num_seen) * PICTURE_BYTES
    free = shutil.disk_usage(work.stage).free
    if needed > free:
        raise DataError(
            f"{work.out}: needs {needed / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB are free there; "
            "make room or choose another place"
        )


def _write_rest(
    work: _Work, journal: BinaryIO, chunks: Sequence[_Chunk], threads: int | None, on_progress: OnProgress
) -> list[_Chunk]:
    draft = _Draft.after(chunks)
    written: list[_Chunk] = []
    num_examples, num_train = len(work.examples), len(work.source.train)
    rest = work.examples[draft.num_seen :]
    on_progress(draft.num_seen, num_examples)
    with (work.stage / PICTURES).open("ab") as pictures, (work.stage / SOURCES).open("ab") as sources:
        first = draft.num_pictures
        for look in look_at_each(rest, work.resize, threads):
            draft.add(look, pictures, sources, is_train=draft.num_seen < num_train)
            on_progress(draft.num_seen, num_examples)
            if draft.num_pictures - first == work.chunk_pictures or draft.num_seen == num_examples:
                for file in (pictures, sources):
                    file.flush()
                    os.fsync(file.fileno())
                written.append(draft.finished())
                journal.write(msgspec.json.encode(written[-1]) + b"\n")
                os.fsync(journal.fileno())
                draft = _Draft.after(written)
                first = draft.num_pictures
    return written


def _publish(work: _Work, chunks: Sequence[_Chunk]) -> None:
    excluded = {place: (name, code) for chunk in chunks for place, name, code in chunk.excluded}
    kept = [example for place, example in enumerate(work.examples) if place not in excluded]
    num_validation = sum(place not in excluded for place in range(len(work.source.train), len(work.examples)))
    num_train = len(kept) - num_validation
    check_source(
        PictureSource(
            root=work.source.root,
            labels=work.source.labels,
            train=kept[:num_train],
            validation=kept[num_train:],
        )
    )
    sums = ColorSums()
    for chunk in chunks:
        sums.add(ColorSums(num_pixels=chunk.num_pixels, total=np.array(chunk.total), products=np.array(chunk.products)))
    labels = np.array([example.label for example in kept], "<i4").tobytes()
    header = PackHeader(
        format_version=FORMAT_VERSION,
        labels=work.source.labels,
        num_train=num_train,
        num_validation=num_validation,
        resize=work.resize,
        mean=_rgb(sums.mean),
        covariance=(_rgb(sums.covariance[0]), _rgb(sums.covariance[1]), _rgb(sums.covariance[2])),
        source=work.source_text,
        source_sha256=sha256_of_file(work.stage / SOURCES),
        excluded=dict(excluded[place] for place in sorted(excluded)),
        chunk_pictures=work.chunk_pictures,
        chunks_sha256=tuple(
            chunk.sha256 for chunk, numbers in zip(chunks, _ranges(chunks), strict=True) if len(numbers)
        ),
        labels_sha256=sha256(labels),
        tools=tool_versions(),
    )
    write_atomically(work.stage / LABELS, labels)
    write_atomically(work.stage / HEADER, encode_header(header))
    open_pack(work.stage)
    if os.path.lexists(work.out):
        raise UsageError(f"{work.out}: has appeared meanwhile; nothing was published")
    work.stage.rename(work.out)
    sync_directory(work.out.parent)


def _rgb(values: np.ndarray) -> RGB:
    red, green, blue = values.tolist()
    return (red, green, blue)
