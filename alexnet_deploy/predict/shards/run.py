"""Predict one shard with an open engine: its rows, and its record beside them."""

from alexnet_deploy.predict.output import open_row_file
from alexnet_deploy.predict.resume import pass_over
from alexnet_deploy.predict.shards.record import Origin
from alexnet_deploy.predict.shards.sidecar import ShardRun, write_record
from alexnet_deploy.predict.sink import write_all
from alexnet_deploy.predict.stream import Classifier


def predict_shard(run: ShardRun, classifier: Classifier, batch_size: int | None = None) -> None:
    """Write the rows and the record of a shard; rows of an interrupted run of the same settings are kept.

    Raises what open_row_file, pass_over and write_record raise.
    """
    writer = run.form.writer(classifier.bundle.labels)
    origin = Origin.of(classifier.engine.info, classifier.limits)
    with open_row_file(run.output, writer, origin.words, resume=True) as rows:
        left = pass_over(rows.done(), iter(run.inputs))
        write_all(classifier.stream(left, batch_size), rows)
        write_record(run, origin, rows, None)
