"""The inputs of one shard: input number i, from 0, of the whole sequence belongs to shard i mod N + 1.

Every shard walks the whole sequence, but keeps nothing of it: only the number of inputs, and a digest of all names.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.inputs.paths import Input

_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of `count` shards; `number` is 1..count."""

    number: int
    count: int

    def __post_init__(self) -> None:
        """Raise UsageError for a number that is not in 1..count."""
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--shard {self}: K must be in 1..N, as in 1/{max(1, self.count)}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def num_rows(self, num_inputs: int) -> int:
        """Return how many of `num_inputs` inputs belong to this shard."""
        return max(0, num_inputs - self.number + self.count) // self.count


def parse_shard(text: str) -> Shard:
    """Return the shard that `K/N` names; raises UsageError for another text."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, flags=re.ASCII)
    if found is None:
        raise UsageError(f"--shard {text}: must be K/N, the shard's number and the number of shards, as in 3/16")
    return Shard(number=int(found[1]), count=int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedShard:
    """The inputs of one shard of a list that another process has walked."""

    shard: Shard
    num_inputs: int
    """Number of inputs of all shards."""
    sha256: str
    """Digest of the names of all inputs, see ShardInputs."""
    inputs: Iterator[Input]
    """Those of this shard, in order."""

    def __iter__(self) -> Iterator[Input]:
        return self.inputs


class ShardInputs(Iterator[Input | None]):
    """The inputs of one shard, in order; a None among all inputs, which awaits those before it, is kept."""

    def __init__(self, shard: Shard, inputs: Iterator[Input | None]) -> None:
        self.shard = shard
        self.num_inputs = 0
        """Number of inputs so far, those of the other shards included."""
        self._inputs = inputs
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Digest of the names of all inputs so far: before each, the length of its UTF-8 in 8 bytes, little-endian."""
        return self._digest.hexdigest()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Input | None:
        for item in self._inputs:
            if item is None:
                return None
            name = item.text.encode()
            self._digest.update(len(name).to_bytes(_LENGTH_BYTES, "little") + name)
            number, self.num_inputs = self.num_inputs, self.num_inputs + 1
            if number % self.shard.count == self.shard.number - 1:
                return item
        raise StopIteration
