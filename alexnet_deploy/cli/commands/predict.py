"""`alexnet-deploy predict`."""

import io
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli.conclusion import conclude
from alexnet_deploy.cli.features import can_resume, check_features, confirm, refuse_other_output, with_features
from alexnet_deploy.cli.options import BackendOption, BundleOption, DeviceOption, ThreadsOption
from alexnet_deploy.cli.sharding import (
    conclude_shard,
    read_shard,
    record_to_replace,
    refuse_changed_inputs,
    shard_run,
)
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import find_bundle
from alexnet_deploy.core.process.interruption import unwinding
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.store import Bundle
    from alexnet_deploy.core.inputs.paths import Input
    from alexnet_deploy.predict.prediction import Prediction
    from alexnet_deploy.predict.row_formats import RowFormat, RowWriter
    from alexnet_deploy.predict.sample import EvenSample
    from alexnet_deploy.predict.sink import RowSink, Tally


class RetryCode(StrEnum):
    """The values of --retry-failed: each code of ImageErrorCode, or all."""

    ALL = "all"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    MISSING = "missing"


ImagesArgument = Annotated[
    list[str], typer.Argument(help="Files, folders, patterns, archives or URLs; - reads a list of names from stdin.")
]
ViewsOption = Annotated[
    Literal["ten", "center"] | None,
    typer.Option(help="Require these views, which are part of the bundle's graph."),
]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Images per batch. Default: the engine's choice.")]
TopkOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of classes to report per image, most probable first. Default: 5."),
]
RejectOption = Annotated[
    float | None,
    typer.Option(
        metavar="FLOAT",
        help="Mark predictions as rejected whose top-1 probability is below this, 0 to 1.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    Literal["table", "jsonl", "csv"] | None,
    typer.Option("--format", help="Format of the rows. Default: from the extension of --output, or table on stdout."),
]
OutputOption = Annotated[Path | None, typer.Option(help="Write the rows to this new file instead of stdout.")]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Resume an interrupted run that wrote jsonl or csv rows to --output; needs the same inputs in the same "
        "order.",
    ),
]
RetryFailedOption = Annotated[
    list[RetryCode] | None,
    typer.Option(
        help="With --resume: also retry the inputs whose row has this error code, or all failed inputs; can be "
        "repeated. Also works on a complete --output.",
    ),
]
NullOption = Annotated[
    bool, typer.Option("--null", "-0", help="Names on stdin end with NUL, as written by `find -print0`.")
]
AllowEmptyOption = Annotated[bool, typer.Option("--allow-empty", help="Accept folders and lists without any file.")]
GalleryOption = Annotated[
    Path | None,
    typer.Option(
        help="Write a page of the images with their predictions to this new HTML file: all of them, or an even sample "
        "of 200."
    ),
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npy|FILE.parquet",
        help="With a bundle of features, exported with --output-layer: write them to this new file, a row per input.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="K/N",
        help="Predict every Nth input only, from input K on, on one of N machines; `merge` joins the rows of all.",
    ),
]
RetriesOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="Retries after a transient read error, 0.1, 0.5, 2 and 8 seconds apart, then 30; 0 for none.",
    ),
]
MaxPixelsOption = Annotated[int | None, typer.Option(min=1, help="Refuse larger images. Default: 134,217,728.")]


def predict(
    images: ImagesArgument,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    views: ViewsOption = None,
    batch_size: BatchSizeOption = None,
    topk: TopkOption = None,
    reject: RejectOption = None,
    row_format: FormatOption = None,
    output: OutputOption = None,
    resume: ResumeOption = False,
    retry_failed: RetryFailedOption = None,
    null: NullOption = False,
    allow_empty: AllowEmptyOption = False,
    gallery: GalleryOption = None,
    features: FeaturesOption = None,
    shard: ShardOption = None,
    max_pixels: MaxPixelsOption = None,
    retries: RetriesOption = 3,
) -> None:
    """Classify images: one row per input, in input order, with an error code where a file cannot be read.

    With --features, extract features of images instead.
    """
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.core.fs.patience import set_retries
    from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
    from alexnet_deploy.core.inputs.lists import find_listed, read_list
    from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
    from alexnet_deploy.engines.engine import open_engine
    from alexnet_deploy.predict.features.extraction import Extractor
    from alexnet_deploy.predict.output import check_output
    from alexnet_deploy.predict.resume import pass_over
    from alexnet_deploy.predict.row_formats import choose_format
    from alexnet_deploy.predict.shards.record import Origin
    from alexnet_deploy.predict.stream import Classifier

    if output is not None:
        check_output(output, resume=resume)
    if gallery is not None:
        check_output(gallery, resume=False, option="--gallery")
        if resume:
            raise UsageError("--gallery shows the predictions of one run; leave out --resume")
    if features is not None:
        others = {"--topk": topk, "--reject": reject, "--gallery": gallery, "--retry-failed": retry_failed or None}
        check_features(features, output, [name for name in others if others[name] is not None], resume=resume)
    row_format = choose_format(row_format, output)
    share = read_shard(shard, output, row_format, {"--gallery": gallery, "--features": features})
    if resume and (output is None or row_format == "table"):
        raise UsageError("--resume needs an --output whose --format is jsonl or csv")
    if retry_failed and not resume:
        raise UsageError("--retry-failed needs --resume, because it replaces rows of an earlier run")
    if null and "-" not in images:
        raise UsageError("--null needs the input -, which reads a list from stdin")
    again = _codes(retry_failed or [])
    set_retries(retries)
    path = find_bundle(bundle)
    opened = open_bundle(path)
    returned = opened.manifest.output
    refuse_other_output(opened, wants_features=features is not None)
    num_guesses = (topk or 5) if features is None else 0
    writer = _writer(row_format, num_guesses, opened.labels, reject, is_for_stdout=output is None)
    # A program without a terminal may have no stdin at all.
    stdin = io.BytesIO() if sys.stdin is None else sys.stdin.buffer
    given = _Given(find_listed(images, read_list(stdin, null=null)))
    inputs: Iterator[Input | None] = iter(given)
    part = shard_run(share, output, inputs, writer, opened)
    if part is not None:
        inputs = part.inputs
    is_complete = resume and output is not None and os.path.lexists(output)
    replaced = record_to_replace(part) if is_complete else None
    if output is not None and is_complete and not _holds(output, writer, again):
        outcomes = _confirm_whole(output, writer, inputs)
        refuse_changed_inputs(part, replaced)
        if features is not None:
            confirm(features, opened, outcomes.total())
        conclude(outcomes, reject, "predicted" if features is None else "extracted")
        return
    _refuse_other_views(opened, views)
    limits = DEFAULT_LIMITS if max_pixels is None else DecodeLimits(max_pixels=max_pixels)
    with open_engine(opened, backend, device, threads, tuned_for="throughput") as engine:
        info = engine.info
        say(
            f"{path}, {opened.manifest.views.name} views, on {info.backend} {info.version}, {info.device}, "
            f"{info.arithmetic}, {counted(info.num_streams, 'stream')} of batch {batch_size or info.batch_size}"
        )
        origin = Origin(
            bundle_sha256=info.bundle_sha256,
            backend=info.backend,
            arithmetic=info.arithmetic,
            limits=str(limits),
            decoding_version=DECODING_VERSION,
        )
        kept = row_format != "table" and can_resume(features)
        with unwinding(), _sink_to(output, writer, origin.words, resume=resume, again=again, is_resumable=kept) as rows:
            left = pass_over(rows.done(), inputs)
            if not allow_empty:
                left = _refuse_none(left, given, images)
            if features is None:
                classifier = Classifier(bundle=opened, engine=engine, topk=num_guesses, limits=limits, reject=reject)
                predictions = classifier.stream(left, batch_size)
            else:
                extractor = Extractor(bundle=opened, engine=engine, limits=limits)
                predictions = with_features(extractor.stream(left, batch_size), features, engine, rows)
            sample = _write_all(predictions, rows)
            conclude_shard(part, origin, rows, replaced)
    if gallery is not None:
        from alexnet_deploy.pipeline.gallery import write_gallery

        write_gallery(gallery, sample, opened, limits)
        say(f"gallery: {gallery}")
    if features is not None:
        say(f"features: {features}, {returned.size:,} of {returned.layer} for each input")
    conclude(rows.outcomes, reject, "predicted" if features is None else "extracted")


def _writer(
    row_format: "RowFormat", topk: int, labels: tuple[str, ...], reject: float | None, *, is_for_stdout: bool
) -> "RowWriter":
    from alexnet_deploy.cli.terminal import width_of
    from alexnet_deploy.predict.row_formats import RowWriter

    return RowWriter(
        row_format,
        min(topk, len(labels)),
        label_width=min(24, max(len(label) for label in labels)),
        width=width_of(sys.stdout) if is_for_stdout else None,
        # Rows beside a file of features have no classes to check.
        labels=labels if topk else (),
        reject=reject,
    )


class _Given:
    """The inputs of all shards, and whether there was one so far."""

    def __init__(self, inputs: "Iterator[Input | None]") -> None:
        self._inputs = inputs
        self.is_empty = True

    def __iter__(self) -> "Iterator[Input | None]":
        for item in self._inputs:
            self.is_empty = self.is_empty and item is None
            yield item


def _refuse_none(left: "Iterator[Input | None]", given: _Given, images: list[str]) -> "Generator[Input | None]":
    """Yield the inputs that are left; raise UsageError at their end if none was given at all."""
    yield from left
    if given.is_empty:
        sources = "stdin: the list names no files" if images == ["-"] else f"{' '.join(images)}: no files found"
        raise UsageError(f"{sources}; pass --allow-empty to accept that")


def _write_all(predictions: "Generator[Prediction]", rows: "RowSink") -> "EvenSample":
    """Write a row for each prediction, and return a sample of them for the gallery."""
    from alexnet_deploy.cli.terminal import counting_bar
    from alexnet_deploy.predict.sample import MOST_KEPT, EvenSample

    sample = EvenSample(MOST_KEPT)
    with counting_bar("images") as count, closing(predictions):
        for prediction in predictions:
            rows.write(prediction)
            sample.add(prediction)
            count()
        rows.finish()
    return sample


def _codes(retry_failed: list[RetryCode]) -> frozenset[str]:
    from alexnet_deploy.core.errors import ImageErrorCode

    return frozenset(ImageErrorCode) if RetryCode.ALL in retry_failed else frozenset(retry_failed)


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


def _refuse_other_views(bundle: "Bundle", views: str | None) -> None:
    held, layer = bundle.manifest.views.name, bundle.manifest.output.layer
    if views is not None and views != held:
        of_layer = "" if layer is None else f" --output-layer {layer}"
        raise UsageError(
            f"{bundle.path}: its graph computes {held} views, not {views}; `alexnet-deploy export --views {views}"
            f"{of_layer}` makes one that does"
        )


@contextmanager
def _sink_to(
    output: Path | None,
    writer: "RowWriter",
    depends_on: str,
    *,
    resume: bool,
    again: frozenset[str],
    is_resumable: bool,
) -> Iterator["RowSink"]:
    """Yield the sink of all rows, stdout or a file that becomes `output` at the end.

    `is_resumable` says whether --resume can continue the run after an interruption.
    """
    from alexnet_deploy.cli.terminal import for_stdout, say
    from alexnet_deploy.predict.output import open_row_file
    from alexnet_deploy.predict.sink import RowSink

    if output is None:
        rows = RowSink(writer, lambda record: sys.stdout.write(for_stdout(record.decode())))
        rows.begin()
        yield rows
        return
    with open_row_file(
        output, writer, depends_on, resume=resume, again=again, is_resumable=is_resumable, say=say
    ) as file:
        if file.outcomes:
            say(f"resuming after {counted(file.outcomes.total(), 'row')}")
        elif resume:
            say(f"{output}: no rows of an interrupted run were found; starting with the first input")
        try:
            yield file
        except UsageError:
            raise
        except BaseException:
            if file.outcomes and file.place.exists():
                remedy = "; repeat the command with --resume to continue" if is_resumable else ""
                say(f"the rows so far are in {file.place}{remedy}")
            raise
