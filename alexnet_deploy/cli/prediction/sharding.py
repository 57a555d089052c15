"""`alexnet-deploy predict --shard`: the options that go with it, and the record beside the rows.

Without --shard each function gets None, and does nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.store import Bundle
    from alexnet_deploy.core.inputs.paths import Input
    from alexnet_deploy.predict.row_formats import RowWriter
    from alexnet_deploy.predict.shards.inputs import Shard
    from alexnet_deploy.predict.shards.record import Origin, ShardRecord
    from alexnet_deploy.predict.shards.sidecar import ShardRun
    from alexnet_deploy.predict.sink import RowSink


def check_shard(output: Path) -> None:
    """Raise UsageError if the record of a shard cannot be written beside its rows."""
    from alexnet_deploy.predict.shards.sidecar import check_record_place

    check_record_place(output)


def shard_run(
    shard: "Shard | None",
    output: Path | None,
    inputs: "Iterator[Input | None]",
    writer: "RowWriter",
    bundle: "Bundle",
) -> "ShardRun | None":
    """Return what this run writes, with the inputs of its shard."""
    from alexnet_deploy.predict.shards.inputs import ShardInputs
    from alexnet_deploy.predict.shards.record import RowForm
    from alexnet_deploy.predict.shards.sidecar import ShardRun

    if shard is None or output is None:
        return None
    return ShardRun(
        output=output, inputs=ShardInputs(shard, inputs), form=RowForm.of(writer), bundle_sha256=bundle.sha256
    )


def record_to_replace(run: "ShardRun | None") -> "ShardRecord | None":
    """Return the record of a complete file that this run continues; raises UsageError if it is not this shard."""
    from alexnet_deploy.predict.shards.sidecar import record_of_complete

    return None if run is None else record_of_complete(run)


def refuse_changed_inputs(run: "ShardRun | None", record: "ShardRecord | None") -> None:
    """Raise UsageError if the inputs, walked to their end, are not those of the record."""
    from alexnet_deploy.predict.shards.sidecar import refuse_other_inputs

    if run is not None and record is not None:
        refuse_other_inputs(run, record)


def conclude_shard(run: "ShardRun | None", origin: "Origin", rows: "RowSink", replaced: "ShardRecord | None") -> None:
    """Write the record of all rows, before they get their name; see sidecar.write_record."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.process.say import counted
    from alexnet_deploy.predict.shards.sidecar import refuse_other_inputs, refuse_other_origin, write_record
    from alexnet_deploy.predict.sink import RowFile

    if run is None:
        return
    if replaced is not None:
        refuse_other_inputs(run, replaced)
        refuse_other_origin(run, replaced, origin)
    assert isinstance(rows, RowFile), "--shard needs --output"
    write_record(run, origin, rows, replaced)
    say(f"shard {run.inputs.shard}, of {counted(run.inputs.num_inputs, 'input')}")
