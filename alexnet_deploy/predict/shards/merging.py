"""Merge the rows of all shards in input order, after their records have shown that they belong together."""

import errno
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.fs.opening import MIB, open_input
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.predict.output import interrupted_rows
from alexnet_deploy.predict.row_formats import split_rows
from alexnet_deploy.predict.shards.record import RowFacts, ShardRecord
from alexnet_deploy.predict.shards.sidecar import ENDING, read_record, record_place
from alexnet_deploy.predict.sink import Tally

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """A complete file of rows with its record."""

    place: Path
    record: ShardRecord


def read_shards(places: Sequence[Path]) -> list[WrittenShard]:
    """Return all shards of one run, in the order of their numbers.

    Raises UsageError for a file that is not a complete shard, a shard of another run, one that is given twice and one
    that is missing; DataError for a damaged record.
    """
    shards = [_read_shard(place) for place in places]
    _refuse_foreign(shards)
    by_number: dict[int, WrittenShard] = {}
    for shard in shards:
        other = by_number.setdefault(shard.record.number, shard)
        if other is not shard:
            raise UsageError(
                f"shard {shard.record.shard} is given twice: {other.place} and {shard.place}; leave out one of them"
            )
    _refuse_missing(by_number, shards[0].record.count)
    return [by_number[number] for number in sorted(by_number)]


def _read_shard(place: Path) -> WrittenShard:
    if place.name.endswith(ENDING):
        raise UsageError(f"{place}: is the record of a shard; name its rows, {place.name.removesuffix(ENDING)}")
    record = read_record(place)
    if not place.exists():
        if interrupted_rows(place) is not None:
            raise UsageError(f"{place}: is not complete; repeat its `predict --shard` with --resume")
        shard = "" if record is None else f", shard {record.shard}"
        raise UsageError(f"{place}{shard}: there is no such file; `predict --shard K/N` makes one")
    if record is None:
        raise UsageError(
            f"{place}: has no record {record_place(place).name} beside it, so it is not a shard; `predict --shard K/N` "
            "writes both"
        )
    return WrittenShard(place=place, record=record)


def _traits(record: ShardRecord) -> dict[str, object]:
    """Return what all shards of a run have in common, by what a shard of another run is called."""
    origin, form = record.origin, record.form
    return {
        "another number of shards": record.count,
        "another bundle": f"{origin.bundle_sha256}"[:12],
        "another engine": f"{origin.backend}, {origin.arithmetic}",
        "another decoding policy": f"{origin.limits}, version {origin.decoding_version}",
        "another format": form.row_format,
        "another --topk": form.topk,
        "another --reject": form.reject,
        "another number of inputs": record.inputs.num_inputs,
        "another list of inputs": record.inputs.sha256[:12],
    }


def _refuse_foreign(shards: Sequence[WrittenShard]) -> None:
    """Raise UsageError for a shard that differs from most others, or from the first of equally many."""
    counts = Counter(tuple(_traits(shard.record).values()) for shard in shards)
    usual, _ = counts.most_common(1)[0]
    one = next(shard for shard in shards if tuple(_traits(shard.record).values()) == usual)
    for shard in shards:
        for (name, found), wanted in zip(_traits(shard.record).items(), usual, strict=True):
            if found != wanted:
                raise UsageError(
                    f"{shard.place}: is of {name} than {one.place}: {found}, not {wanted}; merge the shards of one run"
                )


def _refuse_missing(by_number: dict[int, WrittenShard], count: int) -> None:
    if not (num_missing := count - len(by_number)):
        return
    missing = islice((number for number in range(1, count + 1) if number not in by_number), _MOST_NAMED)
    names = ", ".join(f"{number}/{count}" for number in missing)
    more = f" and {num_missing - _MOST_NAMED:,} more" if num_missing > _MOST_NAMED else ""
    raise UsageError(
        f"{'shard' if num_missing == 1 else 'shards'} {names}{more} {'is' if num_missing == 1 else 'are'} missing; "
        "`predict --shard K/N` makes one, and merge needs the rows of all"
    )


def merge_rows(
    shards: Sequence[WrittenShard], put: Callable[[bytes], None], count: Callable[[int, int], None]
) -> Tally:
    """Write the rows of all shards in input order with `put`, and return their tally.

    `count` is called with the number of rows so far and of all. Memory does not grow with the number of rows. Raises
    DataError if the rows of a shard are not those of its record, and UsageError if so many files cannot be open at the
    same time.
    """
    record = shards[0].record
    total = record.inputs.num_inputs
    with ExitStack() as opened:
        sources = [_Source(shard=shard, file=opened.enter_context(_opened(shard, len(shards)))) for shard in shards]
        put(record.form.header)
        rows, num_bytes = [], 0
        streams = [source.rows() for source in sources]
        for number in range(total):
            row = next(streams[number % len(streams)])
            rows.append(row)
            num_bytes += len(row)
            if num_bytes >= MIB:
                put(b"".join(rows))
                rows, num_bytes = [], 0
                count(number + 1, total)
        put(b"".join(rows))
        tally = Tally()
        for source, stream in zip(sources, streams, strict=True):
            # Its end compares it with its record.
            assert next(stream, None) is None
            tally.update(source.facts.outcomes)
            tally.num_rejected += source.facts.num_rejected
    return tally


def _opened(shard: WrittenShard, num_shards: int) -> BinaryIO:
    try:
        return open_input(shard.place)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise UsageError(
                f"{counted(num_shards, 'shard')} cannot be open at the same time; allow it with `ulimit -n "
                f"{num_shards + 100}`"
            ) from error
        raise DataError(f"{shard.place}: cannot be read: {error.strerror}") from error


@dataclass(slots=True, kw_only=True)
class _Source:
    """The rows of one shard while they are read."""

    shard: WrittenShard
    file: BinaryIO
    facts: RowFacts = field(init=False)
    """What the record says of the rows, once all of them are read."""

    def rows(self) -> Iterator[bytes]:
        """Yield the bytes of each row; raises DataError if they are not those of the record."""
        form, num_rows = self.shard.record.form, self.shard.record.rows.num_rows
        digest = hashlib.sha256(header := self._read(len(form.header)))
        if header != form.header:
            raise self._changed("its first line is not the header")
        number = 0
        for row in islice(self._split(), num_rows):
            digest.update(row)
            number += 1
            yield row
        if number < num_rows:
            raise self._changed(f"it has {counted(number, 'complete row')}, not {num_rows:,}")
        if self._read(1):
            raise self._changed(f"it has more than {counted(num_rows, 'row')}")
        facts = self.shard.record.rows_of(digest.hexdigest())
        if facts is None:
            raise self._changed("its SHA-256 differs")
        self.facts = facts

    def _split(self) -> Iterator[bytes]:
        try:
            yield from split_rows(self.file, self.shard.record.form.row_format)
        except OSError as error:
            raise self._unreadable(error) from error

    def _read(self, num_bytes: int) -> bytes:
        try:
            return self.file.read(num_bytes)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"{self.shard.place}: cannot be read: {error.strerror}")

    def _changed(self, found: str) -> DataError:
        return DataError(
            f"{self.shard.place}: was changed after its record was written: {found}; remove both, and repeat its "
            "`predict --shard`"
        )
