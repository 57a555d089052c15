from itertools import product

import msgspec
import pytest
from shard_files import ORIGIN

from alexnet_deploy.core.records import seal
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import InputList, RowFacts, RowForm, ShardRecord

NOW = RowFacts(sha256=64 * "1", outcomes={"ok": 2}, num_rejected=1)
BEFORE = RowFacts(sha256=64 * "2", outcomes={"ok": 1, "missing": 1}, num_rejected=0)
RECORD = ShardRecord(
    number=2,
    count=3,
    origin=ORIGIN,
    form=RowForm(row_format="csv", topk=1, reject=0.5),
    inputs=InputList(num_inputs=7, sha256=64 * "3"),
    rows=NOW,
    earlier=BEFORE,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number": 4}, r"shard 4 is not in 1\.\.3"),
        ({"inputs": {"num_inputs": 8, "sha256": 64 * "3"}}, "it has 2 rows, but shard 2/3 has 3 inputs"),
        (
            {"earlier": {"sha256": 64 * "2", "outcomes": {"ok": 1}, "num_rejected": 0}},
            "it has 1 rows, but shard 2/3 has",
        ),
    ],
)
def test_a_record_does_not_contradict_itself(changes: dict[str, object], said: str) -> None:
    fields = msgspec.to_builtins(RECORD)
    assert msgspec.convert(fields, ShardRecord) == RECORD
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({**fields, **changes}, ShardRecord)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 1, "count": 2, "inputs": InputList(num_inputs=4, sha256=64 * "3")},
        {"origin": msgspec.structs.replace(ORIGIN, limits="others")},
        {"form": RowForm(row_format="csv", topk=1, reject=None)},
        {"inputs": InputList(num_inputs=7, sha256=64 * "0")},
        {"rows": BEFORE},
        {"earlier": None},
    ],
)
def test_the_digest_covers_every_field(changes: dict[str, object]) -> None:
    changed = msgspec.structs.replace(RECORD, **changes)
    assert seal(changed, "deterministic").sha256 != seal(RECORD, "deterministic").sha256


def test_both_complete_files_are_known() -> None:
    assert (RECORD.rows_of(NOW.sha256), RECORD.rows_of(BEFORE.sha256)) == (NOW, BEFORE)
    assert RECORD.rows_of(64 * "0") is None
    assert msgspec.structs.replace(RECORD, earlier=None).rows_of(BEFORE.sha256) is None
    assert (RECORD.shard, NOW.num_rows, BEFORE.num_rows) == (Shard(number=2, count=3), 2, 2)


@pytest.mark.parametrize(("row_format", "reject"), [*product(["jsonl", "csv"], [None, 0.25])])
def test_the_form_is_the_writer_s(row_format: RowFormat, reject: float | None) -> None:
    writer = RowWriter(row_format, topk=3, reject=reject)
    form = RowForm.of(writer)
    assert form == RowForm(row_format=row_format, topk=3, reject=reject)  # type: ignore[arg-type]
    assert form.header == writer.header().encode()
