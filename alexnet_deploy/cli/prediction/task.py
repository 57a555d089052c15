"""One prediction task: what was asked for, the bundle, and the inputs, in order."""

import io
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_deploy.cli.prediction.asked import Asked
from alexnet_deploy.cli.prediction.sharding import shard_run
from alexnet_deploy.core.errors import UsageError

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.store import Bundle
    from alexnet_deploy.core.inputs.paths import Input
    from alexnet_deploy.predict.row_formats import RowWriter
    from alexnet_deploy.predict.shards.sidecar import ShardRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prediction task."""

    asked: Asked
    bundle: "Bundle"
    writer: "RowWriter"
    inputs: "Iterator[Input | None]"
    """Those of the shard, or all; each is taken from it once."""
    part: "ShardRun | None"
    """What a shard writes; None without --shard."""
    given: "Given"
    """The inputs of all shards."""

    def left(self, inputs: "Iterator[Input | None]") -> "Iterator[Input | None]":
        """Yield `inputs`; raise UsageError at their end if none was given at all and that is not allowed."""
        return inputs if self.asked.allow_empty else _refuse_none(inputs, self.given, self.asked.images)


def task_of(asked: Asked, bundle: "Bundle", *, null: bool) -> Task:
    """Return the task with the inputs that the command line names; with `null`, names on stdin end with NUL."""
    from alexnet_deploy.core.inputs.lists import find_listed, read_list

    # A program without a terminal may have no stdin at all.
    stdin = io.BytesIO() if sys.stdin is None else sys.stdin.buffer
    given = Given(find_listed(asked.images, read_list(stdin, null=null)))
    writer = _writer(asked, bundle.labels)
    inputs: Iterator[Input | None] = iter(given)
    part = shard_run(asked.shard, asked.output, inputs, writer, bundle)
    return Task(
        asked=asked,
        bundle=bundle,
        writer=writer,
        inputs=inputs if part is None else iter(part.inputs),
        part=part,
        given=given,
    )


def _writer(asked: Asked, labels: tuple[str, ...]) -> "RowWriter":
    from alexnet_deploy.cli.terminal import width_of
    from alexnet_deploy.predict.row_formats import RowWriter

    return RowWriter(
        asked.row_format,
        min(asked.num_guesses, len(labels)),
        label_width=min(24, max(len(label) for label in labels)),
        width=width_of(sys.stdout) if asked.output is None else None,
        # Rows beside a file of features have no classes to check.
        labels=labels if asked.num_guesses else (),
        reject=asked.reject,
    )


class Given:
    """The inputs of all shards, and whether there was one so far."""

    def __init__(self, inputs: "Iterator[Input | None]") -> None:
        self._inputs = inputs
        self.is_empty = True

    def __iter__(self) -> "Iterator[Input | None]":
        for item in self._inputs:
            self.is_empty = self.is_empty and item is None
            yield item


def _refuse_none(left: "Iterator[Input | None]", given: Given, images: list[str]) -> "Generator[Input | None]":
    """Yield the inputs that are left; raise UsageError at their end if none was given at all."""
    yield from left
    if given.is_empty:
        sources = "stdin: the list names no files" if images == ["-"] else f"{' '.join(images)}: no files found"
        raise UsageError(f"{sources}; pass --allow-empty to accept that")
