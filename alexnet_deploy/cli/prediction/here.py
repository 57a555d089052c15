"""Predict in this process: an engine, and the sink of its rows."""

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alexnet_deploy.cli.prediction.features import can_resume, with_features
from alexnet_deploy.cli.prediction.sharding import conclude_shard
from alexnet_deploy.cli.prediction.task import Task
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.process.interruption import unwinding
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.core.inputs.paths import Input
    from alexnet_deploy.engines.engine import Engine
    from alexnet_deploy.predict.prediction import Prediction
    from alexnet_deploy.predict.sample import EvenSample
    from alexnet_deploy.predict.shards.record import ShardRecord
    from alexnet_deploy.predict.sink import RowSink, Tally


def predict_here(task: Task, replaced: "ShardRecord | None") -> "Tally":
    """Write a row for each input, and what goes beside the rows; return the tally of all rows."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.predict.resume import pass_over
    from alexnet_deploy.predict.shards.record import Origin

    asked, bundle = task.asked, task.bundle
    with asked.engine.open(bundle) as engine:
        info = engine.info
        say(
            f"{bundle.path}, {bundle.manifest.views.name} views, on {info.words}, "
            f"{counted(info.num_streams, 'stream')} of batch {asked.batch_size or info.batch_size}"
        )
        origin = Origin.of(info, asked.limits)
        with unwinding(), _sink_of(task, origin.words) as rows:
            left = task.left(pass_over(rows.done(), task.inputs))
            sample = _write_all(_predictions(task, engine, left, rows), rows)
            conclude_shard(task.part, origin, rows, replaced)
    if asked.gallery is not None:
        from alexnet_deploy.pipeline.pages.gallery import write_gallery

        write_gallery(asked.gallery, sample, bundle, asked.limits)
        say(f"gallery: {asked.gallery}")
    if asked.features is not None:
        returned = bundle.manifest.output
        say(f"features: {asked.features}, {returned.size:,} of {returned.layer} for each input")
    return rows.outcomes


def _predictions(
    task: Task, engine: "Engine", left: "Iterator[Input | None]", rows: "RowSink"
) -> "Generator[Prediction]":
    from alexnet_deploy.predict.features.extraction import Extractor
    from alexnet_deploy.predict.stream import Classifier

    asked = task.asked
    if asked.features is not None:
        extractor = Extractor(bundle=task.bundle, engine=engine, limits=asked.limits)
        return with_features(extractor.stream(left, asked.batch_size), asked.features, engine, rows)
    classifier = Classifier(
        bundle=task.bundle, engine=engine, topk=asked.num_guesses, limits=asked.limits, reject=asked.reject
    )
    return classifier.stream(left, asked.batch_size)


def _write_all(predictions: "Generator[Prediction]", rows: "RowSink") -> "EvenSample":
    """Write a row for each prediction, and return a sample of them for the gallery."""
    from alexnet_deploy.cli.terminal import counting_bar
    from alexnet_deploy.predict.sample import MOST_KEPT, EvenSample
    from alexnet_deploy.predict.sink import write_all

    sample = EvenSample(MOST_KEPT)

    def note(prediction: "Prediction") -> None:
        sample.add(prediction)
        count()

    with counting_bar("images") as count:
        write_all(predictions, rows, note)
    return sample


@contextmanager
def _sink_of(task: Task, depends_on: str) -> "Iterator[RowSink]":
    """Yield the sink of all rows, stdout or a file that becomes --output at the end."""
    from alexnet_deploy.cli.terminal import for_stdout, say
    from alexnet_deploy.predict.output import open_row_file
    from alexnet_deploy.predict.sink import RowSink
    from alexnet_deploy.ray.job import refuse_interrupted

    asked, writer = task.asked, task.writer
    if asked.output is None:
        rows = RowSink(writer, lambda record: sys.stdout.write(for_stdout(record.decode())))
        rows.begin()
        yield rows
        return
    is_resumable = asked.row_format != "table" and can_resume(asked.features)
    with open_row_file(
        asked.output, writer, depends_on, resume=asked.resume, again=asked.again, is_resumable=is_resumable, say=say
    ) as file:
        if file.outcomes:
            say(f"resuming after {counted(file.outcomes.total(), 'row')}")
        elif asked.resume:
            refuse_interrupted(asked.output)
            say(f"{asked.output}: no rows of an interrupted run were found; starting with the first input")
        try:
            yield file
        except UsageError:
            raise
        except BaseException:
            if file.outcomes and file.place.exists():
                remedy = "; repeat the command with --resume to continue" if is_resumable else ""
                say(f"the rows so far are in {file.place}{remedy}")
            raise
