"""A prediction job: what its workers need to know, and the folder of its shards.

Beside the output rows.jsonl the hidden folder .rows.jsonl.ray holds

    inputs                      the names of all inputs
    inputs-K-of-N               those of a shard
    settings                    what else the rows depend on
    rows-K-of-N.jsonl           the rows of a complete shard, with its record, as `predict --shard K/N` writes them
    .rows-K-of-N.jsonl....      the rows so far of a shard that is being written

Names of shards depend on the inputs alone, and a shard is written by one process at a time, so a worker or a job that
is killed neither loses nor doubles a row.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.core.errors import OutputError, UsageError
from alexnet_deploy.core.fs.files import sync_directory, write_atomically
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.locks import is_taken
from alexnet_deploy.core.fs.opening import MIB, make_directory, open_working, read_file, replace_file
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.predict.output import interrupted_rows
from alexnet_deploy.predict.predictor import LoadOptions
from alexnet_deploy.predict.shards.inputs import ListedShard, Shard, ShardInputs
from alexnet_deploy.predict.shards.record import RowForm, ShardRecord
from alexnet_deploy.predict.shards.sidecar import read_record
from alexnet_deploy.ray.listing import read_list, refuse_other_inputs, split_list, write_list

ROWS_PER_SHARD = 256
MOST_SHARDS = 512
"""All of them are open at the same time when they are merged."""

_INPUTS = "inputs"
_NEW_INPUTS = "inputs.new"
_SETTINGS = "settings"
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
    inputs_sha256: str
    """Digest of the names of all inputs, see ShardInputs."""

    @property
    def shards(self) -> list[Shard]:
        """All shards, in order; their number depends on the number of inputs alone."""
        return _shards(self.num_inputs)

    def place(self, shard: Shard) -> Path:
        """Return where the rows of a shard are, once they are complete."""
        return self.folder / f"rows-{shard.number}-of-{shard.count}.{self.settings.form.row_format}"

    def record(self, shard: Shard) -> ShardRecord | None:
        """Return the record of a shard whose rows are all written, None for another; merging compares them with it."""
        return read_record(self.place(shard)) if self.place(shard).exists() else None

    def has_rows(self) -> bool:
        """Return whether a worker has begun a shard."""
        return _has_rows(self.folder)

    def inputs(self, shard: Shard) -> ListedShard:
        """Return the inputs of a shard, in order."""
        return ListedShard(
            shard=shard,
            num_inputs=self.num_inputs,
            sha256=self.inputs_sha256,
            inputs=read_list(_part(self.folder, shard)),
        )


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
            walked = ShardInputs(Shard(number=1, count=1), inputs)
            _prepare(folder, settings, walked, resume=resume)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        yield Job(
            settings=settings,
            folder=folder.absolute(),
            directory=Path.cwd(),
            num_inputs=walked.num_inputs,
            inputs_sha256=walked.sha256,
        )


def refuse_interrupted(output: Path) -> None:
    """Raise UsageError if a job that writes `output` was interrupted, which only --ray can continue."""
    if _has_rows(folder := folder_beside(output)):
        raise UsageError(
            f"{folder}: holds the rows of an interrupted run with --ray; repeat the command with --ray to continue, or "
            "remove the folder"
        )


def _shards(num_inputs: int) -> list[Shard]:
    count = min(MOST_SHARDS, max(1, -(-num_inputs // ROWS_PER_SHARD)))
    return [Shard(number=number, count=count) for number in range(1, count + 1)]


def _part(folder: Path, shard: Shard) -> Path:
    return folder / f"{_INPUTS}-{shard.number}-of-{shard.count}"


def _prepare(folder: Path, settings: Settings, inputs: ShardInputs, *, resume: bool) -> None:
    """Write what workers read; raises UsageError if rows are of other settings or inputs."""
    has_rows = _has_rows(folder)
    if has_rows and not resume:
        raise UsageError(f"{folder}: holds the rows of an interrupted run; pass --resume to continue it")
    if has_rows:
        _refuse_other_settings(folder, settings)
    write_list(folder / _NEW_INPUTS, inputs)
    if has_rows:
        refuse_other_inputs(folder / _INPUTS, folder / _NEW_INPUTS)
    replace_file(folder / _NEW_INPUTS, folder / _INPUTS)
    split_list(folder / _INPUTS, [_part(folder, shard) for shard in _shards(inputs.num_inputs)])
    write_atomically(folder / _SETTINGS, json.dumps(settings.traits).encode())
    sync_directory(folder)


def _has_rows(folder: Path) -> bool:
    return folder.is_dir() and any(entry.name.startswith(("rows-", ".rows-")) for entry in folder.iterdir())


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


def remove_job(output: Path) -> None:
    """Remove the folder of a job whose rows are merged, if there is one."""
    folder, done = folder_beside(output), hidden_beside(output, ".ray.done")
    if done.exists():
        shutil.rmtree(done)
    if folder.exists():
        # Renamed first: half a job would look like an interrupted one.
        folder.rename(done)
        shutil.rmtree(done)
