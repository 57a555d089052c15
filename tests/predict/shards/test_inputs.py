import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.predict.shards.inputs import Shard, ShardInputs, parse_shard

NAMES = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=20)


def shards_of(names: list[str | None], count: int) -> list[ShardInputs]:
    """All shards, not yet walked."""
    inputs = [None if name is None else Input(name=name) for name in names]
    return [ShardInputs(Shard(number=number, count=count), iter(inputs)) for number in range(1, count + 1)]


@given(names=NAMES, count=st.integers(1, 12))
def test_shards_are_disjoint_and_complete_and_keep_the_order(names: list[str | None], count: int) -> None:
    present = [Input(name=name) for name in names if name is not None]
    shards = shards_of(names, count)
    parts = [[item for item in shard if item is not None] for shard in shards]
    assert [parts[i % count][i // count] for i in range(len(present))] == present
    assert [len(part) for part in parts] == [shard.shard.num_rows(len(present)) for shard in shards]
    assert sum(map(len, parts)) == len(present)
    assert {(shard.num_inputs, shard.sha256) for shard in shards} == {(len(present), shards[0].sha256)}


@given(names=NAMES, count=st.integers(1, 5))
def test_every_shard_is_told_that_no_more_inputs_are_available_yet(names: list[str | None], count: int) -> None:
    for shard in shards_of(names, count):
        assert list(shard).count(None) == names.count(None)


@given(one=st.lists(st.text(max_size=2), max_size=4), other=st.lists(st.text(max_size=2), max_size=4))
def test_lists_of_inputs_have_one_digest_only_if_they_are_equal(one: list[str], other: list[str]) -> None:
    digests = []
    for names in (one, other):
        (shard,) = shards_of([*names], 1)
        list(shard)
        digests.append(shard.sha256)
    texts = [[Input(name=name).text for name in names] for names in (one, other)]
    assert (digests[0] == digests[1]) == (texts[0] == texts[1])


def test_names_are_not_joined_in_the_digest() -> None:
    (one,), (other,) = shards_of(["ab", "c"], 1), shards_of(["a", "bc"], 1)
    assert [*one, *other] == [Input(name=name) for name in ("ab", "c", "a", "bc")]
    assert one.sha256 != other.sha256


def test_inputs_are_not_kept() -> None:
    def inputs() -> Iterator[Input | None]:
        for number in range(30_000):
            yield Input(name=f"a folder/an image with a long name {number:06d}.jpg")

    shard = ShardInputs(Shard(number=2, count=3), inputs())
    tracemalloc.start()
    num_rows = sum(1 for _ in shard)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == 10_000
    assert peak < 100_000


@pytest.mark.parametrize(
    "text", ["x", "3", "/", "3/", "/4", "1/4/4", "-1/4", "1.0/4", " 1/4", "1/4\n", "１/4", "1/1234567890"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be K/N, the shard's number and the number of shards, as in 3/16"):
        parse_shard(text)


@pytest.mark.parametrize(("text", "example"), [("0/4", "1/4"), ("5/4", "1/4"), ("3/0", "1/1"), ("0/0", "1/1")])
def test_numbers_outside_the_shards_are_refused(text: str, example: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_shard(text)
    assert str(caught.value) == f"--shard {text}: K must be in 1..N, as in {example}"


@given(count=st.integers(1, 999_999_999), data=st.data())
def test_what_is_written_is_read(count: int, data: st.DataObject) -> None:
    shard = Shard(number=data.draw(st.integers(1, count)), count=count)
    assert parse_shard(str(shard)) == shard
