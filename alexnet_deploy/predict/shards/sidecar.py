"""The record of a shard in a file beside its rows: rows-3.jsonl.shard.json belongs to rows-3.jsonl.

It is written when all rows are, before the rows get their name, so complete rows always have one. When --retry-failed
replaces complete rows, the record accepts both the new rows and the earlier ones.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from alexnet_deploy.core.errors import DataError, OutputError, UsageError
from alexnet_deploy.core.fs.files import sha256_of_file, write_atomically
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.core.records import ChangedRecordError, UnknownVersionError, read_sealed, seal
from alexnet_deploy.predict.shards.inputs import ListedShard, ShardInputs
from alexnet_deploy.predict.shards.record import VERSIONS, InputList, Origin, RowFacts, RowForm, ShardRecord
from alexnet_deploy.predict.sink import RowFile

ENDING = ".shard.json"
"""What the record's name adds to that of the rows."""

_REMEDY = "choose another --output"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRun:
    """A run that writes the rows of one shard."""

    output: Path
    inputs: ShardInputs | ListedShard
    form: RowForm
    bundle_sha256: str

    @property
    def list_so_far(self) -> InputList:
        """The inputs of all shards, up to where this run has walked."""
        return InputList(num_inputs=self.inputs.num_inputs, sha256=self.inputs.sha256)


def record_place(output: Path) -> Path:
    """Return where the record of a file of rows lies."""
    return output.with_name(output.name + ENDING)


def check_record_place(output: Path) -> None:
    """Raise UsageError if the record of these rows cannot be written, or would replace another program's file."""
    place = record_place(output)
    try:
        place.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{place}: cannot be written: {error.strerror}; {_REMEDY}") from error
    try:
        read_record(output)
    except DataError as error:
        raise UsageError(f"{error}; remove it, or {_REMEDY}") from error


def read_record(output: Path) -> ShardRecord | None:
    """Return the record of a file of rows, None if there is none; raises DataError if it is damaged."""
    place = record_place(output)
    try:
        return read_sealed(read_file(place, MIB), ShardRecord, "shard of rows", VERSIONS, "deterministic")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror}") from error
    except (UnknownVersionError, msgspec.DecodeError, ChangedRecordError) as error:
        raise DataError(f"{place}: is not a valid record of a shard: {error}") from error


def write_record(run: ShardRun, origin: Origin, rows: RowFile, replaced: ShardRecord | None) -> None:
    """Write the record of rows that are all written, but do not have their name yet.

    `replaced` is the record of the complete file that they replace. Raises OutputError.
    """
    place = record_place(run.output)
    try:
        written = RowFacts(
            sha256=sha256_of_file(rows.place),
            outcomes=dict(rows.outcomes),
            num_rejected=rows.outcomes.num_rejected,
        )
        record = ShardRecord(
            number=run.inputs.shard.number,
            count=run.inputs.shard.count,
            origin=origin,
            form=run.form,
            inputs=run.list_so_far,
            rows=written,
            earlier=None if replaced is None else replaced.rows,
        )
        text = msgspec.json.format(msgspec.json.encode(seal(record, "deterministic")))
        write_atomically(place, text + b"\n")
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be written: {error.strerror or error}; all rows are in {rows.place}; repeat the command "
            "with --resume"
        ) from error


def record_of_complete(run: ShardRun) -> ShardRecord:
    """Return the record of a complete file that a run continues, with the rows that are in place.

    Raises UsageError if it has none, if it is of other rows, or of another shard, bundle or form; DataError if it is
    damaged.
    """
    output, record = run.output, read_record(run.output)
    if record is None:
        raise UsageError(
            f"{output}: is complete, but without {record_place(output).name} it is not known to be a shard; {_REMEDY}"
        )
    if record.shard != run.inputs.shard:
        raise UsageError(f"{output}: holds shard {record.shard}, not {run.inputs.shard}; {_REMEDY}")
    if record.origin.bundle_sha256 != run.bundle_sha256:
        raise UsageError(f"{output}: another bundle gave its rows; {_REMEDY}")
    if record.form != run.form:
        raise UsageError(f"{output}: its rows were written with another --format, --topk or --reject; {_REMEDY}")
    rows = record.rows_of(sha256_of_file(output))
    if rows is None:
        raise UsageError(f"{output}: was changed after {record_place(output).name} was written; {_REMEDY}")
    return msgspec.structs.replace(record, rows=rows, earlier=None)


def refuse_other_inputs(run: ShardRun, record: ShardRecord) -> None:
    """Raise UsageError if the inputs, walked to their end, are no longer those of a complete file's record."""
    if record.inputs != run.list_so_far:
        raise UsageError(f"{run.output}: is complete, but inputs of other shards have changed since; {_REMEDY}")


def refuse_other_origin(run: ShardRun, record: ShardRecord, origin: Origin) -> None:
    """Raise UsageError if inputs of a complete file are retried with another engine than the one of its rows."""
    if record.origin != origin:
        raise UsageError(
            f"{run.output}: its rows are from {record.origin.words}, but this run has {origin.words}; retry with the "
            "engine and limits of the first run"
        )
