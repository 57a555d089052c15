"""`alexnet-deploy evaluate`."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.cli.options import DeviceOption, JsonOption, ThreadsOption, print_json
from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.names import check_exists, find_bundle
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.registry import SPECS, Backend

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.evaluation.evaluate import Evaluation

METRICS = ("top1", "top5")

BundlesArgument = Annotated[list[Path] | None, typer.Argument(help="Bundles or their names. Default: the latest.")]
DataOption = Annotated[
    Path,
    typer.Option(
        help="Labelled images: a folder with one folder for each class, or with val/; or ImageNet's validation "
        "archive or CIFAR-10's binary archive, as downloaded."
    ),
]
BackendsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="|".join(SPECS), help="Backend to run each bundle on; can be repeated. Default: every installed one."
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option(help="Write one row for each image and engine to this new .csv, .jsonl or .parquet file.")
]
PageOption = Annotated[
    Path | None, typer.Option("--page", help="Write an HTML page with charts, confusion matrix and errors.")
]
FailUnderOption = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC=SHARE", help="Exit with 1 if a row is below, as top1=0.57; can be repeated."),
]
SubsetOption = Annotated[
    Path | None, typer.Option(help="File with one label on each line: predict and evaluate only these classes.")
]
RetryOption = Annotated[
    bool, typer.Option("--retry", help="If an engine fails, try again with half the batch; the table says so.")
]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Images per batch. Default: the engine's choice.")]
SecondsOption = Annotated[float, typer.Option(min=0.0, help="Duration of each measurement of latency.")]


def evaluate(
    bundles: BundlesArgument = None,
    data: DataOption = ...,  # type: ignore[assignment]  # Typer's mark of a required option
    backend: BackendsOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = None,
    output: OutputOption = None,
    page: PageOption = None,
    fail_under: FailUnderOption = None,
    labels_subset: SubsetOption = None,
    retry: RetryOption = False,
    seconds: SecondsOption = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Compare bundles on labelled images: accuracy with intervals, calibration, speed and size of every engine."""
    from alexnet_deploy.cli.terminal import images_bar, say, show, width_of
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.pipeline.evaluation.evaluate import EvaluationRequest, RowAnswers
    from alexnet_deploy.pipeline.evaluation.evaluate import evaluate as evaluate_bundles
    from alexnet_deploy.pipeline.evaluation.images_file import check_images_file, open_images_file
    from alexnet_deploy.pipeline.evaluation.page import write_page
    from alexnet_deploy.pipeline.evaluation.table import evaluation_table
    from alexnet_deploy.predict.output import check_output

    limits = dict(map(_limit, fail_under or []))
    check_exists(data, "file or folder")
    for path, option in ((output, "--output"), (page, "--page")):
        if path is not None:
            check_output(path, resume=False, option=option)
    if output is not None:
        check_images_file(output)
    opened = [open_bundle(find_bundle(path)) for path in bundles] if bundles else [open_bundle(find_bundle())]
    request = EvaluationRequest(
        backends=tuple(map(_backend, backend)) if backend else None,
        device=device,
        threads=threads,
        batch_size=batch_size,
        subset=None if labels_subset is None else _labels_in(labels_subset),
        may_retry=retry,
        seconds=seconds,
    )
    shown: list[RowAnswers] = []
    with ExitStack() as stack:
        file = None if output is None else stack.enter_context(open_images_file(output))
        progress = stack.enter_context(images_bar("evaluating"))

        def keep(answered: RowAnswers) -> None:
            if file is not None:
                file.write(answered)
            # The page shows the errors of the first row that ran.
            if not shown and answered.answers is not None:
                shown.append(answered)

        result = evaluate_bundles(opened, data, request, on_row=keep, say=say, on_progress=progress)
    if page is not None:
        write_page(page, result, shown[0] if shown else None)
    if as_json:
        print_json(result)
    else:
        show(evaluation_table(result, width_of(sys.stdout)))
    failures = list(_failures(result, limits))
    for line in failures:
        say(line)
    if page is not None:
        say(f"page: {page}")
    if failures:
        raise typer.Exit(1)


def _backend(name: str) -> Backend:
    known = next((backend for backend in SPECS if backend == name), None)
    if known is None:
        raise UsageError(f"--backend: must be one of {', '.join(SPECS)}, got {name}")
    return known


def _limit(text: str) -> tuple[str, float]:
    """Return the metric and the share in `top1=0.57`."""
    metric, equals, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not equals or metric not in METRICS or not 0 <= share <= 1:
        raise UsageError(f"--fail-under: must be {' or '.join(METRICS)}=SHARE with a share of 0 to 1, got {text}")
    return metric, share


def _labels_in(path: Path) -> tuple[str, ...]:
    from alexnet_deploy.core.model.labels import read_labels

    labels = tuple(label for label in read_labels(path) if label)
    if not labels:
        raise DataError(f"{path}: has no labels; write one on each line")
    return labels


def _failures(result: "Evaluation", limits: dict[str, float]) -> Iterator[str]:
    """Yield a line for each row that failed, each metric below its limit, and for images that cannot be read."""
    for row in result.rows:
        where = f"{row.bundle} on {row.backend}"
        if row.score is None:
            yield f"FAILED: {where}: {row.reason}"
            continue
        for metric, least in limits.items():
            found = {"top1": row.score.top1, "top5": row.score.top5}[metric]
            # Written so that NaN fails.
            if not found >= least:
                yield f"FAILED: {where}: {metric} is {found:.4f}, under {least:g}"
    num_unreadable = max((row.score.num_unreadable for row in result.rows if row.score is not None), default=0)
    if num_unreadable:
        yield f"{counted(num_unreadable, 'image')} could not be read, and did not count"
