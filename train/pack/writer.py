"""Pack labelled images in one pass, which resumes where it was interrupted.

    .OUT.partial/plan.json        what is packed and how; a different plan is refused
    .OUT.partial/journal.jsonl    one line for each chunk of images on disk
    .OUT.partial/pack/            the packed set, renamed to OUT when it is complete

A chunk's line is written after its images. On resuming, chunks in the journal are compared with their digests, and
anything after them is cut off and packed again.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.fs.files import sha256, sha256_of_file, sync_directory, write_atomically
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.opening import make_directory, open_working, refuse_directory
from alexnet_deploy.core.fs.room import missing_room
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION, RGB, DecodePolicy, ImagePolicy, ResizePolicy
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.train.data.scan import ColorSums, look_at_each
from alexnet_deploy.train.data.source import Example, LabelledSource, check_source
from alexnet_deploy.train.pack.format import (
    FORMAT_VERSION,
    HEADER,
    IMAGE_BYTES,
    IMAGES,
    LABELS,
    SOURCES,
    Pack,
    PackHeader,
    digests_of,
    encode_header,
    open_pack,
)
from alexnet_deploy.train.pack.journal import Chunk, Draft, claimed, noted_chunks, ranges_of

# 201 MB: an interruption loses a second or two of work, and ImageNet has 1,300 digests.
CHUNK_IMAGES = 1024

OnProgress = Callable[[int, int], None]

_PLAN = "plan.json"
_STAGE = "pack"


class _Plan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must be equal to resume packing."""

    format_version: int
    source: str
    examples_sha256: str
    resize: ResizePolicy
    decode: DecodePolicy = "exact"
    decoding: int
    chunk_images: int = msgspec.field(name="chunk_pictures")
    tools: dict[str, str]


def pack(
    source: LabelledSource,
    out: Path,
    policy: ImagePolicy,
    *,
    threads: int | None = None,
    chunk_images: int = CHUNK_IMAGES,
    say: Say = say_nothing,
    on_progress: OnProgress = lambda num_seen, num_examples: None,
) -> Pack:
    """Decode every image of a source once, and write the packed set `out`.

    Images that cannot be decoded are skipped and listed. An interrupted or killed process leaves `.OUT.partial` beside
    `out`; the same call resumes from there, and the result is bit-identical.

    Raises UsageError if `out` exists, DataError if another process is packing, too few images can be decoded, or `out`
    cannot be written.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out}: already exists; choose another directory for the packed set")
    partial = hidden_beside(out, ".partial")
    work = _Work(
        source=source,
        examples=(*source.train, *source.validation),
        policy=policy,
        chunk_images=chunk_images,
        stage=partial / _STAGE,
        out=out,
    )
    try:
        for directory in (partial, work.stage):
            make_directory(directory)
        with claimed(partial, say) as journal:
            _agree_on_plan(partial / _PLAN, work)
            chunks = _recover(work, journal, say, threads)
            _refuse_small_disk(work, chunks)
            chunks += _write_rest(work, journal, chunks, threads, on_progress)
            _publish(work, chunks)
        shutil.rmtree(partial)
    except FileExistsError as error:
        raise DataError(f"{out}: cannot be packed: {error.strerror}") from error
    except OSError as error:
        raise DataError(
            f"{partial}: could not be written: {error.strerror or error}; the images packed so far are kept: run the "
            "same command again to resume"
        ) from error
    return open_pack(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    source: LabelledSource
    examples: Sequence[Example]
    policy: ImagePolicy
    chunk_images: int
    stage: Path
    out: Path

    @property
    def source_text(self) -> str:
        return Input(name=str(self.source.root.resolve())).text


def _agree_on_plan(path: Path, work: _Work) -> None:
    digest = hashlib.sha256()
    for example in work.examples:
        digest.update(f"{os.fsencode(example.name)!r} {example.label}\n".encode())
    plan = _Plan(
        format_version=FORMAT_VERSION,
        source=work.source_text,
        examples_sha256=digest.hexdigest(),
        resize=work.policy.resize,
        decode=work.policy.decode,
        decoding=DECODING_VERSION,
        chunk_images=work.chunk_images,
        tools=tool_versions(),
    )
    data = msgspec.json.encode(plan)
    if not os.path.lexists(path):
        write_atomically(path, data)
        return
    with open_working(path, "rb") as file:
        found = file.read(len(data) + 1)
    if found != data:
        raise DataError(
            f"{path.parent}: was started with different images, options, tool versions or decoding policy; remove it, "
            "or choose another directory"
        )


def _recover(work: _Work, journal: BinaryIO, say: Say, threads: int | None) -> list[Chunk]:
    """Return the intact chunks, and cut off whatever follows them."""
    noted = noted_chunks(journal)
    images, sources = work.stage / IMAGES, work.stage / SOURCES
    for path in work.stage.iterdir():
        # Left by a process that was killed while it published.
        if path not in (images, sources):
            refuse_directory(path)
            path.unlink()
    with open_working(images, "ab"), open_working(sources, "a+b") as file:
        file.seek(0)
        lines = memoryview(file.read())
    digests = digests_of(images, ranges_of([chunk for chunk, _ in noted]), threads)
    good: list[Chunk] = []
    length = position = 0
    for (chunk, line_bytes), digest in zip(noted, digests, strict=True):
        if digest != chunk.sha256 or sha256(bytes(lines[position : chunk.sources_bytes])) != chunk.sources_sha256:
            say(f"{images}: images from {Draft.after(good).num_images:,} on are damaged; packing them again")
            break
        good.append(chunk)
        length, position = length + line_bytes, chunk.sources_bytes
    os.ftruncate(journal.fileno(), length)
    for path, num_bytes in ((images, Draft.after(good).num_images * IMAGE_BYTES), (sources, position)):
        with open_working(path, "r+b") as file:
            file.truncate(num_bytes)
    if good:
        say(f"resuming after {good[-1].num_seen:,} of {counted(len(work.examples), 'image')}; their digests match")
    return good


def _refuse_small_disk(work: _Work, chunks: Sequence[Chunk]) -> None:
    needed = (len(work.examples) - Draft.after(chunks).num_seen) * IMAGE_BYTES
    if problem := missing_room(work.out, needed):
        raise DataError(problem)


def _write_rest(
    work: _Work, journal: BinaryIO, chunks: Sequence[Chunk], threads: int | None, on_progress: OnProgress
) -> list[Chunk]:
    draft = Draft.after(chunks)
    written: list[Chunk] = []
    num_examples, num_train = len(work.examples), len(work.source.train)
    rest = work.examples[draft.num_seen :]
    on_progress(draft.num_seen, num_examples)
    with _appending(work.stage / IMAGES) as images, _appending(work.stage / SOURCES) as sources:
        first = draft.num_images
        for look in look_at_each(rest, work.policy, threads):
            draft.add(look, images, sources, is_train=draft.num_seen < num_train)
            on_progress(draft.num_seen, num_examples)
            if draft.num_images - first == work.chunk_images or draft.num_seen == num_examples:
                for file in (images, sources):
                    file.flush()
                    os.fsync(file.fileno())
                written.append(draft.finished())
                journal.write(msgspec.json.encode(written[-1]) + b"\n")
                os.fsync(journal.fileno())
                draft = Draft.after(written)
                first = draft.num_images
    return written


def _appending(path: Path) -> BufferedWriter:
    return BufferedWriter(open_working(path, "ab"))


def _publish(work: _Work, chunks: Sequence[Chunk]) -> None:
    excluded = {place: (name, code) for chunk in chunks for place, name, code in chunk.excluded}
    kept = [example for place, example in enumerate(work.examples) if place not in excluded]
    num_validation = sum(place not in excluded for place in range(len(work.source.train), len(work.examples)))
    num_train = len(kept) - num_validation
    check_source(
        LabelledSource(
            root=work.source.root,
            class_names=work.source.class_names,
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
        labels=work.source.class_names,
        num_train=num_train,
        num_validation=num_validation,
        resize=work.policy.resize,
        decode=work.policy.decode,
        decoding=DECODING_VERSION,
        mean=_rgb(sums.mean),
        covariance=(_rgb(sums.covariance[0]), _rgb(sums.covariance[1]), _rgb(sums.covariance[2])),
        source=work.source_text,
        source_sha256=sha256_of_file(work.stage / SOURCES),
        excluded=dict(excluded[place] for place in sorted(excluded)),
        chunk_images=work.chunk_images,
        chunks_sha256=tuple(
            chunk.sha256 for chunk, numbers in zip(chunks, ranges_of(chunks), strict=True) if len(numbers)
        ),
        labels_sha256=sha256(labels),
        tools=tool_versions(),
    )
    write_atomically(work.stage / LABELS, labels)
    write_atomically(work.stage / HEADER, encode_header(header))
    open_pack(work.stage)
    if os.path.lexists(work.out):
        raise UsageError(f"{work.out}: was created by another process in the meantime; nothing was published")
    work.stage.rename(work.out)
    sync_directory(work.out.parent)


def _rgb(values: np.ndarray) -> RGB:
    red, green, blue = values.tolist()
    return (red, green, blue)
