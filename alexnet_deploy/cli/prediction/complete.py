"""A complete `--output` that is given again with `--resume`: its rows are compared with the inputs, or retried."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.cli.prediction.cluster import remove_finished
from alexnet_deploy.cli.prediction.features import confirm
from alexnet_deploy.cli.prediction.sharding import record_to_replace, refuse_changed_inputs
from alexnet_deploy.cli.prediction.task import Task
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.core.inputs.paths import Input
    from alexnet_deploy.predict.row_formats import RowWriter
    from alexnet_deploy.predict.shards.record import ShardRecord
    from alexnet_deploy.predict.sink import Tally


def replaced_record(task: Task) -> "ShardRecord | None":
    """Return the record of a complete shard that this task continues; raises UsageError for another shard's."""
    return record_to_replace(task.part) if _is_complete(task) else None


def confirm_complete(task: Task, replaced: "ShardRecord | None") -> "Tally | None":
    """Return the tally of a complete output whose rows all stay; None if there is something to predict.

    Raises UsageError if its rows do not match the inputs.
    """
    asked = task.asked
    if asked.output is None or not _is_complete(task) or _holds(asked.output, task.writer, asked.again):
        return None
    outcomes = _confirm_whole(asked.output, task.writer, task.inputs)
    refuse_changed_inputs(task.part, replaced)
    if asked.ray is not None:
        remove_finished(asked.output)
    if asked.features is not None:
        confirm(asked.features, task.bundle, outcomes.total())
    return outcomes


def _is_complete(task: Task) -> bool:
    return task.asked.resume and task.asked.output is not None and os.path.lexists(task.asked.output)


def _holds(output: Path, writer: "RowWriter", codes: frozenset[str]) -> bool:
    """Return whether a complete file has a row with one of these errors; raises UsageError for another format."""
    from alexnet_deploy.predict.output import whole_rows

    return bool(codes) and sum(row.outcome in codes for row in whole_rows(output, writer)) > 0


def _confirm_whole(output: Path, writer: "RowWriter", inputs: Iterator["Input | None"]) -> "Tally":
    """Return the tally of a complete file's rows; raises UsageError if the rows do not match the inputs."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.predict.output import whole_rows
    from alexnet_deploy.predict.resume import pass_over
    from alexnet_deploy.predict.sink import Tally

    outcomes = Tally()

    def paths() -> Iterator[str]:
        for row in whole_rows(output, writer):
            outcomes.add(row)
            yield row.path

    later = (item for item in pass_over(paths(), inputs) if item is not None)
    if (more := next(later, None)) is not None:
        raise UsageError(
            f"{output}: is complete with {counted(outcomes.total(), 'row')}, but the inputs now continue with "
            f"{more.text}; choose another --output"
        )
    say(f"{output}: is already complete, with one row per input")
    return outcomes
