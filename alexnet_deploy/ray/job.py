"""A prediction job: what its workers need to know, and the folder of its shards.

Beside the output rows.jsonl the hidden folder .rows.jsonl.ray holds

    inputs                      the names of all inputs, which every worker reads
    settings                    what else the rows depend on
    rows-K-of-N.jsonl           the rows of a complete shard, with its record, as `predict --shard K/N` writes them
    .rows-K-of-N.jsonl....      the rows so far of a shard that is being written

Names of shards depend on the inputs alone, and a shard is written by one process at a time, so a worker or a job that
is killed neither loses nor doubles a row.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BufferedWriter
from itertools import zip_longest
from pathlib import Path

import msgspec

from alexnet_deploy.core.errors import ImageErrorCode, OutputError, UsageError
from alexnet_deploy.core.fs.files import sync_directory, write_atomically
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import MIB, make_directory, open_input, open_working, read_file, replace_file
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.archives import Section
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.inputs.remote.reading import RemoteFile, RemoteSection
from alexnet_deploy.core.inputs.remote.urls import masked
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.predict.output import interrupted_rows
from alexnet_deploy.predict.predictor import LoadOptions
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import Origin, RowForm
from alexnet_deploy.predict.shards.sidecar import read_record

ROWS_PER_SHARD = 256
MOST_SHARDS = 512
"""All of them are open at the same time when they are merged."""

_FILES: dict[str, type[Section | RemoteFile | RemoteSection]] = {
    "section": Section,
    "url": RemoteFile,
    "section of url": RemoteSection,
}
"""Files that are not at the path of their name, as the list of inputs calls them."""

_INPUTS = "inputs"
_NEW_INPUTS = "inputs.new"
_SETTINGS = "settings"
_LOCK = "lock"
_NO_ROWS = frozenset((_INPUTS, _NEW_INPUTS, _SETTINGS, _LOCK))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides the rows of an input."""

    bundle: Path
    bundle_sha256: str
    options: LoadOptions
    form: RowForm
    limits: DecodeLimits
    batch_size: int | None
    retries: int

    @property
    def traits(self) -> dict[str, str]:
        """What cannot change while a job is interrupted, by what it is called."""
        form = self.form
        return {
            "bundle": self.bundle_sha256,
            "--format": form.row_format,
            "--topk": str(form.topk),
            "--reject": str(form.reject),
            "limit on images": str(self.limits),
            "decoding version": str(DECODING_VERSION),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All shards of one run; it is sent to the workers, whose machines see the same folders."""

    settings: Settings
    folder: Path
    """Where the list of inputs and the shards are."""
    directory: Path
    """The working directory of the command; names of inputs are relative to it."""
    num_inputs: int

    @property
    def num_shards(self) -> int:
        """Number of shards, which depends on the number of inputs alone."""
        return min(MOST_SHARDS, max(1, -(-self.num_inputs // ROWS_PER_SHARD)))

    @property
    def shards(self) -> Iterator[Shard]:
        """All shards, in order."""
        return (Shard(number=number, count=self.num_shards) for number in range(1, self.num_shards + 1))

    def place(self, shard: Shard) -> Path:
        """Return where the rows of a shard are, once they are complete."""
        return self.folder / f"rows-{shard.number}-of-{shard.count}.{self.settings.form.row_format}"

    def is_complete(self, shard: Shard) -> bool:
        """Return whether all rows of a shard are written; merging compares them with their record."""
        return self.place(shard).exists() and read_record(self.place(shard)) is not None

    def origin(self) -> Origin | None:
        """Return what computed the complete shards, as the record of the first one says; None if there is none."""
        records = (read_record(self.place(shard)) for shard in self.shards if self.is_complete(shard))
        return next((record.origin for record in records if record is not None), None)

    def has_rows(self) -> bool:
        """Return whether a worker has begun a shard."""
        return _has_rows(self.folder)

    def inputs(self) -> Iterator[Input]:
        """Return the inputs of all shards, in order."""
        return _read_list(self.folder / _INPUTS)


def folder_beside(output: Path) -> Path:
    """Return where the shards of `output` are until they are merged."""
    return hidden_beside(output, ".ray")


@contextmanager
def open_job(
    output: Path, settings: Settings, inputs: Iterator[Input | None], *, resume: bool, say: Say
) -> Iterator[Job]:
    """Yield the job that writes `output`; until the end of the block no other process can open it.

    Raises UsageError if rows of an interrupted run are there and `resume` is not given, or if they are not of a job; if
    another process works on it; and if the inputs or settings differ from those of the interrupted job. Raises
    OutputError if the folder cannot be written. After an exception, a folder without rows is removed.
    """
    if (rows := interrupted_rows(output)) is not None:
        raise UsageError(
            f"{rows}: holds the rows of a run without --ray; continue it without --ray, or remove the file"
        )
    folder = folder_beside(output)
    with ExitStack() as opened:
        try:
            make_directory(folder)
            lock = opened.enter_context(open_working(folder / _LOCK, "a+b"))
            if is_taken(lock, output, say):
                raise UsageError(f"{output}: another run is writing it; wait for it to end, or choose another --output")
            opened.enter_context(_removed_without_rows(folder))
            num_inputs = _prepare(folder, settings, inputs, resume=resume)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        yield Job(settings=settings, folder=folder.absolute(), directory=Path.cwd(), num_inputs=num_inputs)


def refuse_interrupted(output: Path) -> None:
    """Raise UsageError if a job that writes `output` was interrupted, which only --ray can continue."""
    if _has_rows(folder := folder_beside(output)):
        raise UsageError(
            f"{folder}: holds the rows of an interrupted run with --ray; repeat the command with --ray to continue, or "
            "remove the folder"
        )


def _prepare(folder: Path, settings: Settings, inputs: Iterator[Input | None], *, resume: bool) -> int:
    """Write what workers read, and return the number of inputs; raises UsageError if rows are of other ones."""
    has_rows = _has_rows(folder)
    if has_rows and not resume:
        raise UsageError(f"{folder}: holds the rows of an interrupted run; pass --resume to continue it")
    if has_rows:
        _refuse_other_settings(folder, settings)
    num_inputs = _write_list(folder / _NEW_INPUTS, inputs)
    if has_rows:
        _refuse_other_inputs(folder / _INPUTS, folder / _NEW_INPUTS)
    replace_file(folder / _NEW_INPUTS, folder / _INPUTS)
    write_atomically(folder / _SETTINGS, json.dumps(settings.traits).encode())
    sync_directory(folder)
    return num_inputs


def _has_rows(folder: Path) -> bool:
    return folder.is_dir() and any(entry.name not in _NO_ROWS for entry in folder.iterdir())


@contextmanager
def _removed_without_rows(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not _has_rows(folder):
            # What cannot be removed has no rows either: the next run begins with it.
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _refuse_other_settings(folder: Path, settings: Settings) -> None:
    earlier = json.loads(read_file(folder / _SETTINGS, MIB))
    for name, value in settings.traits.items():
        if earlier.get(name) != value:
            raise UsageError(
                f"{folder}: cannot resume: the interrupted run had another {name}: {earlier.get(name)}, now {value}; "
                "repeat its options, or remove the folder to start again"
            )


def _write_list(place: Path, inputs: Iterator[Input | None]) -> int:
    """Write a line for each input to a new file, and return their number; _read_list reads them."""
    num_inputs = 0
    place.unlink(missing_ok=True)
    with BufferedWriter(open_working(place, "xb")) as file:
        for item in inputs:
            if item is not None:
                # Names may hold bytes that are not UTF-8, which JSON writes as half of a surrogate pair.
                file.write(json.dumps([item.name, item.error, _place_of(item)]).encode() + b"\n")
                num_inputs += 1
        file.flush()
        os.fsync(file.fileno())
    return num_inputs


def _read_list(place: Path) -> Iterator[Input]:
    with open_input(place) as file:
        for line in file:
            name, error, stored = json.loads(line)
            yield Input(
                name=name,
                error=None if error is None else (ImageErrorCode(error[0]), error[1]),
                file=None
                if stored is None
                else msgspec.convert(stored[1], _FILES[stored[0]], dec_hook=lambda kind, text: kind(text)),
            )


def _place_of(item: Input) -> tuple[str, object] | None:
    """Return where a file in an archive or on a server is, as JSON; None for a file of its own.

    Raises UsageError for an image that another machine cannot find.
    """
    file = item.file
    if item.held is not None or item.stored is not None:
        raise UsageError(f"{item.text}: --ray takes files, not images in memory or in a packed set")
    if file is None:
        return None
    if isinstance(file, RemoteSection):
        file = replace(file, data=None)
    place = msgspec.to_builtins(file, enc_hook=str)
    if masked(url := _url_of(file)) != url:
        raise UsageError(
            f"{item.text}: --ray would write the password of this URL to a file; pass it in an environment variable of "
            "the file system"
        )
    return next(name for name, kind in _FILES.items() if isinstance(file, kind)), place


def _url_of(file: object) -> str:
    if isinstance(file, RemoteSection):
        file = file.archive
    return file.url if isinstance(file, RemoteFile) else ""


def _refuse_other_inputs(earlier: Path, now: Path) -> None:
    """Raise UsageError if two lists of inputs differ."""
    for number, (was, found) in enumerate(zip_longest(_read_list(earlier), _read_list(now)), start=1):
        if was != found:
            told = "there are no more inputs" if found is None else f"input {number:,} is now {found.text}"
            before = "there was none" if was is None else f"it was {was.text}"
            raise UsageError(f"cannot resume: {told}, but in the interrupted run {before}")


def remove_job(output: Path) -> None:
    """Remove the folder of a job whose rows are merged, if there is one."""
    folder = folder_beside(output)
    if folder.exists():
        shutil.rmtree(folder)
