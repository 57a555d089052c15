"""A prediction job: what its workers need to know, and the folder of its shards.

Beside the output rows.jsonl the hidden folder .rows.jsonl.ray holds

    inputs                      the names of all inputs
    inputs-K-of-N               those of a shard
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
from itertools import cycle, zip_longest
from pathlib import Path

import msgspec

from alexnet_deploy.core.errors import ImageErrorCode, OutputError, UsageError
from alexnet_deploy.core.fs.files import sync_directory
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import make_directory, open_input, open_working, replace_file
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.archives import Section
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.inputs.remote.reading import RemoteFile, RemoteSection
from alexnet_deploy.core.inputs.remote.urls import masked
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.predict.predictor import LoadOptions
from alexnet_deploy.predict.shards.inputs import ListedShard, Shard, ShardInputs
from alexnet_deploy.predict.shards.record import RowForm
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
_LOCK = "lock"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All shards of one run; it is sent to the workers, whose machines see the same folders."""

    settings: Settings
    folder: Path
    """Where the list of inputs and the shards are."""
    directory: Path
    """The working directory of the command; names of inputs are relative to it."""
    num_inputs: int
    inputs_sha256: str
    """Digest of the names of all inputs, see ShardInputs."""

    @property
    def num_shards(self) -> int:
        """Number of shards, which depends on the number of inputs alone."""
        return _num_shards(self.num_inputs)

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

    def inputs(self, shard: Shard) -> ListedShard:
        """Return the inputs of a shard, in order."""
        return ListedShard(
            shard=shard,
            num_inputs=self.num_inputs,
            sha256=self.inputs_sha256,
            inputs=_read_list(self.folder / _part(shard.number, shard.count)),
        )


def folder_beside(output: Path) -> Path:
    """Return where the shards of `output` are until they are merged."""
    return hidden_beside(output, ".ray")


@contextmanager
def open_job(
    output: Path, settings: Settings, inputs: Iterator[Input | None], *, resume: bool, say: Say
) -> Iterator[Job]:
    """Yield the job that writes `output`; until the end of the block no other process can open it.

    Raises UsageError if rows of an interrupted job are there and `resume` is not given, if another process works on it,
    or if the inputs differ from those of the interrupted job; OutputError if the folder cannot be written.
    """
    folder = folder_beside(output)
    with ExitStack() as opened:
        try:
            make_directory(folder)
            lock = opened.enter_context(open_working(folder / _LOCK, "a+b"))
            if is_taken(lock, output, say):
                raise UsageError(f"{output}: another run is writing it; wait for it to end, or choose another --output")
            has_rows = any("rows-" in entry.name for entry in folder.iterdir())
            if has_rows and not resume:
                raise UsageError(f"{folder}: holds the rows of an interrupted run; pass --resume to continue it")
            walked = ShardInputs(Shard(number=1, count=1), inputs)
            _write_list(folder / _NEW_INPUTS, walked)
            if has_rows:
                _refuse_other_inputs(folder / _INPUTS, folder / _NEW_INPUTS)
            replace_file(folder / _NEW_INPUTS, folder / _INPUTS)
            _split_list(folder, _num_shards(walked.num_inputs))
            sync_directory(folder)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        yield Job(
            settings=settings,
            folder=folder.absolute(),
            directory=Path.cwd(),
            num_inputs=walked.num_inputs,
            inputs_sha256=walked.sha256,
        )


def _num_shards(num_inputs: int) -> int:
    return min(MOST_SHARDS, max(1, -(-num_inputs // ROWS_PER_SHARD)))


def _part(number: int, count: int) -> str:
    return f"{_INPUTS}-{number}-of-{count}"


def _split_list(folder: Path, count: int) -> None:
    """Write the lines of each shard to a file of their own, so that no worker reads the names of all inputs."""
    with ExitStack() as opened:
        parts = []
        for number in range(1, count + 1):
            place = folder / _part(number, count)
            place.unlink(missing_ok=True)
            parts.append(opened.enter_context(BufferedWriter(open_working(place, "xb"))))
        with open_input(folder / _INPUTS) as file:
            for part, line in zip(cycle(parts), file, strict=False):
                part.write(line)


def _write_list(place: Path, inputs: Iterator[Input | None]) -> None:
    """Write a line for each input to a new file, which _read_list reads."""
    place.unlink(missing_ok=True)
    with BufferedWriter(open_working(place, "xb")) as file:
        for item in inputs:
            if item is not None:
                # Names may hold bytes that are not UTF-8, which JSON writes as half of a surrogate pair.
                file.write(json.dumps([item.name, item.error, _place_of(item)]).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


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
    if masked(text := json.dumps(place)) != text:
        raise UsageError(
            f"{item.text}: --ray would write the password of this URL to a file; pass it in an environment variable of "
            "the file system"
        )
    return next(name for name, kind in _FILES.items() if isinstance(file, kind)), place


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
