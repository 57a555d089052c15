import os
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from shard_files import ORIGIN, shard_run, write_shard

from alexnet_deploy.core.errors import DataError, ImageErrorCode, OutputError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.predict.output import open_row_file
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.resume import Again
from alexnet_deploy.predict.row_formats import RowWriter
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import ShardRecord
from alexnet_deploy.predict.shards.sidecar import (
    check_record_place,
    read_record,
    record_of_complete,
    record_place,
    refuse_other_inputs,
    refuse_other_origin,
    write_record,
)

SECOND = Shard(number=2, count=3)
PREDICTIONS = [
    Prediction(path=f"{number}.jpg", top=(Guess(index=1, label="ship", probability=0.5),), error=None, message="")
    for number in range(7)
]
PREDICTIONS[4] = Prediction(path="4.jpg", top=(), error=ImageErrorCode.MISSING, message="no such file")
MENDED = [replace(PREDICTIONS[0], path=prediction.path) for prediction in PREDICTIONS]


@pytest.fixture
def writer() -> RowWriter:
    return RowWriter("jsonl", topk=1)


@pytest.fixture
def output(tmp_path: Path, writer: RowWriter) -> Path:
    return write_shard(tmp_path / "rows-2", SECOND, PREDICTIONS, writer)


def known(output: Path) -> ShardRecord:
    record = read_record(output)
    assert record is not None
    return record


def test_a_record_says_what_the_rows_are(output: Path) -> None:
    record = known(output)
    assert record_place(output).name == "rows-2.shard.json"
    assert (record.shard, record.origin, record.inputs.num_inputs) == (SECOND, ORIGIN, 7)
    assert (record.rows.sha256, record.rows.outcomes) == (sha256(output.read_bytes()), {"ok": 1, "missing": 1})
    assert record.earlier is None


def test_rows_have_no_name_before_their_record_is_written(tmp_path: Path, writer: RowWriter) -> None:
    """A full disk, at the last moment."""
    output = tmp_path / "rows-2"

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=r"rows-2.shard.json: cannot be written: No space left on device; all r"):
            write_shard(output, SECOND, PREDICTIONS, writer)
    assert [re.sub("[0-9a-f]{12}", "DIGEST", path.name) for path in tmp_path.iterdir()] == [".rows-2.DIGEST.partial"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (b"", "Input data was truncated"),
        (
            b'{"format": "alexnet-deploy bundle", "format_version": 1}',
            "alexnet-deploy bundle version 1 is not supported",
        ),
        (b'{"format": "shard of rows", "format_version": 2}', "shard of rows version 2 is newer than supported"),
        (b"\xff", "is not a valid record"),
    ],
)
def test_a_damaged_record_is_refused(damage: bytes, sentence: str, output: Path) -> None:
    record_place(output).write_bytes(damage)
    with pytest.raises(DataError, match=sentence):
        read_record(output)
    with pytest.raises(UsageError, match="; remove it, or choose another --output"):
        check_record_place(output)


@pytest.mark.parametrize(
    ("was", "now"), [('"number": 2', '"number": 3'), ('"ok": 1', '"ok": 2'), ('"missing"', '"empty"'), ("true", "1")]
)
def test_a_changed_record_is_refused(was: str, now: str, output: Path) -> None:
    place = record_place(output)
    place.write_text(place.read_text().replace(was, now) if was != "true" else place.read_text()[:-3])
    with pytest.raises(DataError, match="is not a valid record of a shard: "):
        read_record(output)


def test_a_name_that_is_too_long_for_a_record_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"shard\.json: cannot be written: File name too long; choose another --out"):
        check_record_place(tmp_path / ("n" * 250))
    check_record_place(tmp_path / ("n" * 240))
    assert list(tmp_path.iterdir()) == []


def retry(output: Path, writer: RowWriter) -> None:
    """Do what `predict --shard 2/3 --resume --retry-failed missing` does."""
    run = shard_run(output, SECOND, MENDED, writer)
    record = record_of_complete(run)
    with open_row_file(output, writer, ORIGIN.words, resume=True, again=frozenset({"missing"})) as rows:
        # The first row is a sample that the engine reproduces.
        for mark, item in zip(list(rows.done()), run.inputs, strict=True):
            if isinstance(mark, Again):
                rows.write(next(prediction for prediction in MENDED if item == Input(name=prediction.path)))
        rows.finish()
        refuse_other_inputs(run, record)
        write_record(run, ORIGIN, rows, record)


def test_a_retry_that_ends_between_its_two_files_leaves_a_valid_shard(
    output: Path, writer: RowWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, replace_path = output.read_bytes(), Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target == output:
            raise KeyboardInterrupt
        return replace_path(self, target)

    run = shard_run(output, SECOND, MENDED, writer)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            retry(output, writer)
    assert output.read_bytes() == before
    assert known(output).rows.outcomes == {"ok": 2}
    kept = record_of_complete(run)
    assert (kept.rows.sha256, kept.rows.outcomes, kept.earlier) == (sha256(before), {"ok": 1, "missing": 1}, None)
    retry(output, writer)
    assert record_of_complete(run).rows.outcomes == {"ok": 2}
    assert output.read_bytes() == "".join(writer.row(MENDED[number]) for number in (1, 4)).encode()


def test_a_complete_file_is_continued_only_as_the_same_shard(output: Path, writer: RowWriter) -> None:
    run = shard_run(output, SECOND, PREDICTIONS, writer)
    list(run.inputs)
    record = record_of_complete(run)
    refuse_other_inputs(run, record)
    refuse_other_origin(run, record, ORIGIN)
    others = {
        r"holds shard 2/3, not 1/3": shard_run(output, Shard(number=1, count=3), PREDICTIONS, writer),
        r"another bundle gave its rows": replace(run, bundle_sha256=64 * "b"),
        r"with another --format, --topk or --reject": shard_run(output, SECOND, PREDICTIONS, RowWriter("jsonl", 2)),
    }
    for sentence, other in others.items():
        with pytest.raises(UsageError, match=f"rows-2: .*{sentence}; choose another --output"):
            record_of_complete(other)
    more = shard_run(output, SECOND, [*PREDICTIONS, PREDICTIONS[0]], writer)
    list(more.inputs)
    with pytest.raises(UsageError, match="is complete, but inputs of other shards have changed since; choose another"):
        refuse_other_inputs(more, record)
    with pytest.raises(
        UsageError, match=r"its rows are from .* openvino .*, but this run has .* onnxruntime .*; retry"
    ):
        refuse_other_origin(run, record, msgspec.structs.replace(ORIGIN, backend="onnxruntime"))


def test_rows_that_were_changed_are_not_continued(output: Path, writer: RowWriter) -> None:
    run = shard_run(output, SECOND, PREDICTIONS, writer)
    rows = output.read_bytes()
    output.write_bytes(rows.replace(b"0.5", b"0.6"))
    with pytest.raises(UsageError, match=r"rows-2: was changed after rows-2.shard.json was written; choose another"):
        record_of_complete(run)
    output.write_bytes(rows)
    record_place(output).unlink()
    with pytest.raises(UsageError, match=r"is complete, but without rows-2.shard.json it is not known to be a shard"):
        record_of_complete(run)
