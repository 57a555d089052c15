"""`alexnet-deploy predict`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli.options import BackendOption, BundleOption, DeviceOption, MaxPixelsOption, ThreadsOption
from alexnet_deploy.cli.prediction.asked import Asked
from alexnet_deploy.cli.prediction.cluster import predict_on_cluster
from alexnet_deploy.cli.prediction.complete import confirm_complete, replaced_record
from alexnet_deploy.cli.prediction.conclusion import conclude
from alexnet_deploy.cli.prediction.features import refuse_other_output, refuse_same_file
from alexnet_deploy.cli.prediction.here import predict_here
from alexnet_deploy.cli.prediction.task import task_of
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import find_bundle

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.store import Bundle


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
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local",
        help="Predict on all machines of a Ray cluster that see the same folders; local uses this machine alone.",
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
    ray: RayOption = None,
    max_pixels: MaxPixelsOption = None,
    retries: RetriesOption = 3,
) -> None:
    """Classify images: one row per input, in input order, with an error code where a file cannot be read.

    With --features, extract features of images instead.
    """
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.core.fs.patience import set_retries
    from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
    from alexnet_deploy.predict.output import check_output
    from alexnet_deploy.predict.predictor import LoadOptions
    from alexnet_deploy.predict.row_formats import choose_format
    from alexnet_deploy.predict.shards.inputs import parse_shard

    if output is not None:
        # Before its format is asked for: a device has none.
        check_output(output, resume=resume)
    if null and "-" not in images:
        raise UsageError("--null needs the input -, which reads a list from stdin")
    refuse_same_file(features, output)
    asked = Asked(
        images=images,
        engine=LoadOptions(backend=backend, device=device, threads=threads),
        retries=retries,
        limits=DEFAULT_LIMITS if max_pixels is None else DecodeLimits(max_pixels=max_pixels),
        batch_size=batch_size,
        topk=topk,
        reject=reject,
        row_format=choose_format(row_format, output),
        output=output,
        resume=resume,
        again=_codes(retry_failed or []),
        allow_empty=allow_empty,
        gallery=gallery,
        features=features,
        shard=None if shard is None else parse_shard(shard),
        ray=ray,
    )
    asked.check()
    set_retries(retries)
    opened = open_bundle(find_bundle(bundle))
    refuse_other_output(opened, wants_features=features is not None)
    task = task_of(asked, opened, null=null)
    replaced = replaced_record(task)
    outcomes = confirm_complete(task, replaced)
    if outcomes is None:
        _refuse_other_views(opened, views)
        outcomes = predict_here(task, replaced) if ray is None else predict_on_cluster(task)
    conclude(outcomes, reject, "predicted" if features is None else "extracted")


def _codes(retry_failed: list[RetryCode]) -> frozenset[str]:
    from alexnet_deploy.core.errors import ImageErrorCode

    return frozenset(ImageErrorCode) if RetryCode.ALL in retry_failed else frozenset(retry_failed)


def _refuse_other_views(bundle: "Bundle", views: str | None) -> None:
    held, layer = bundle.manifest.views.name, bundle.manifest.output.layer
    if views is not None and views != held:
        of_layer = "" if layer is None else f" --output-layer {layer}"
        raise UsageError(
            f"{bundle.path}: its graph computes {held} views, not {views}; `alexnet-deploy export --views {views}"
            f"{of_layer}` makes one that does"
        )
