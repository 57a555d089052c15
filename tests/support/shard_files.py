"""Shards of given predictions, written as `predict --shard` writes them."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.predict.output import open_row_file
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.row_formats import RowWriter
from alexnet_deploy.predict.shards.inputs import Shard, ShardInputs
from alexnet_deploy.predict.shards.record import Origin, RowForm
from alexnet_deploy.predict.shards.sidecar import ShardRun, write_record

ORIGIN = Origin(bundle_sha256=64 * "a", backend="openvino", arithmetic="float32", limits="usual", decoding_version=2)


def shard_run(output: Path, shard: Shard, predictions: Sequence[Prediction], writer: RowWriter) -> ShardRun:
    inputs = ShardInputs(shard, (Input(name=prediction.path) for prediction in predictions))
    return ShardRun(output=output, inputs=inputs, form=RowForm.of(writer), bundle_sha256=str(ORIGIN.bundle_sha256))


def write_shard(
    output: Path, shard: Shard, predictions: Sequence[Prediction], writer: RowWriter, origin: Origin = ORIGIN
) -> Path:
    """Write the rows of one shard, and their record; `predictions` are those of all shards."""
    run = shard_run(output, shard, predictions, writer)
    with open_row_file(output, writer, origin.words, resume=False) as rows:
        own = predictions[shard.number - 1 :: shard.count]
        for item, prediction in zip(run.inputs, own, strict=True):
            assert item == Input(name=prediction.path)
            rows.write(prediction)
        rows.finish()
        write_record(run, origin, rows, None)
    return output


def write_shards(folder: Path, count: int, predictions: Sequence[Prediction], writer: RowWriter) -> list[Path]:
    """Write all shards, rows-1 to rows-N."""
    return [
        write_shard(folder / f"rows-{number}", Shard(number=number, count=count), predictions, writer)
        for number in range(1, count + 1)
    ]
