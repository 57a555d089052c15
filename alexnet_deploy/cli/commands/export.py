"""`alexnet-deploy export`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli.options import (
    ForceOption,
    HardwareCompatibleOption,
    MaxBatchOption,
    MinBatchOption,
    OptBatchOption,
    PlanOption,
    VersionCompatibleOption,
    WorkspaceOption,
    debug_line,
    plan_request,
)
from alexnet_deploy.core.bundle.vocabulary import CalibrationMethod, Rest
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import (
    check_exists,
    check_new_place,
    find_weights,
    new_bundle,
    next_prediction,
    note_latest,
    resume_words,
)

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.manifest import Manifest
    from alexnet_deploy.pipeline.confidence.images import ConfidenceSource
    from alexnet_deploy.pipeline.int8.calibration import Int8Request

WeightsArgument = Annotated[
    Path | None, typer.Argument(help="A weights file, or a run or its name. Default: the latest run.")
]
PrecisionOption = Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="Precision of the graph.")]
ViewsOption = Annotated[
    Literal["ten", "center"],
    typer.Option(help="Average the paper's ten views of each image, or use the centre view only."),
]
OutputLayerOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        help="Return features instead of probabilities: this layer's values, such as fc7 or pool5, averaged over the "
        "views.",
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option(help="int8: calibration images, a folder or a packed set. Default: the training images."),
]
CalibrationImagesOption = Annotated[
    int | None, typer.Option(min=1, help="int8: number of calibration images, at most. Default: 512.")
]
CalibrationCacheOption = Annotated[
    Path | None, typer.Option(help="int8: file that stores the calibration statistics for the next export.")
]
MethodOption = Annotated[
    CalibrationMethod | None,
    typer.Option(
        help="int8: calibration method. Default: the first of mse, entropy, minmax, percentile that passes on the "
        "golden images."
    ),
]
RestOption = Annotated[
    Rest | None, typer.Option(help="int8: precision of all other layers. Default: fp32; fp16 is for GPUs.")
]
KeepFloatOption = Annotated[
    list[str] | None, typer.Option(help="int8: a layer to keep in float, such as conv1; can be repeated.")
]
AccuracyDataOption = Annotated[
    Path | None, typer.Option(help="int8: labelled images for measuring accuracy, in DIR/CLASS or DIR/val/CLASS.")
]
MaxDropOption = Annotated[
    float | None, typer.Option(help="int8: largest allowed drop of top-1 on --data, in points. Default: 0.5.")
]
CalibrateConfidenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|validation",
        help="Make confidence agree with accuracy on labelled images that training did not use, in DIR/CLASS or "
        "DIR/val/CLASS; validation: on the validation images of the training.",
    ),
]
OutOption = Annotated[Path | None, typer.Option(help="Path of the new bundle. Default: a new name in bundles/.")]


def export(
    weights: WeightsArgument = None,
    precision: PrecisionOption = "fp32",
    views: ViewsOption = "ten",
    output_layer: OutputLayerOption = None,
    calibrate: CalibrateOption = None,
    calibration_images: CalibrationImagesOption = None,
    calibration_cache: CalibrationCacheOption = None,
    method: MethodOption = None,
    rest: RestOption = None,
    keep_float: KeepFloatOption = None,
    data: AccuracyDataOption = None,
    max_drop: MaxDropOption = None,
    calibrate_confidence: CalibrateConfidenceOption = None,
    plan: PlanOption = None,
    min_batch: MinBatchOption = None,
    opt_batch: OptBatchOption = None,
    max_batch: MaxBatchOption = None,
    workspace: WorkspaceOption = None,
    version_compatible: VersionCompatibleOption = False,
    hardware_compatible: HardwareCompatibleOption = False,
    out: OutOption = None,
    force: ForceOption = False,
) -> None:
    """Export weights to a bundle, and verify it before it is published."""
    from alexnet_deploy.cli.terminal import building_bar, say, show_path, stages
    from alexnet_deploy.core.model.weights import load_weights
    from alexnet_deploy.engines.tensorrt.build import BuildObserver
    from alexnet_deploy.inspection.describe import interruption_words
    from alexnet_deploy.pipeline.export import ExportRequest
    from alexnet_deploy.pipeline.export import export as publish
    from alexnet_deploy.pipeline.plans import why_no_plan

    if precision != "int8":
        _refuse_int8_options(
            precision,
            {
                "--calibrate": calibrate,
                "--calibration-images": calibration_images,
                "--calibration-cache": calibration_cache,
                "--method": method,
                "--rest": rest,
                "--keep-float": keep_float or None,
                "--data": data,
                "--max-drop": max_drop,
            },
        )
    if max_drop is not None and data is None:
        raise UsageError("--max-drop needs --data, a folder of labelled images to measure the drop on")
    check_new_place(out)
    judges = _confidence_source(calibrate_confidence)
    asked = plan_request(plan, min_batch, opt_batch, max_batch, workspace, version_compatible, hardware_compatible)
    request = ExportRequest(
        precision=precision,
        views=views,
        output_layer=output_layer,
        int8=_int8_request(
            calibrate=calibrate,
            num_images=calibration_images,
            cache=calibration_cache,
            method=method,
            rest=rest,
            keep_float=tuple(keep_float) if keep_float else None,
            max_drop_points=max_drop,
        ),
        data=data,
        confidence=judges,
        plan=asked,
    )
    for folder in (calibrate, data, judges):
        if isinstance(folder, Path):
            check_exists(folder, "folder of images")
    found = find_weights(weights)
    if weights is None:
        say(f"no WEIGHTS given: using {found}")
    loaded = load_weights(found)
    if (training := loaded.weights.training) is not None and training.interrupted:
        say(f"{found}: {interruption_words(training)}; {resume_words(found.parent)}")
    with stages() as stage, building_bar() as show:
        bundle = publish(
            loaded,
            out or new_bundle(loaded.weights.architecture.name, precision),
            request,
            force=force,
            observer=BuildObserver(say=stage, on_progress=show, debug=debug_line()),
        )
    note_latest(bundle.path)
    _summarise(bundle.manifest)
    if asked is None and plan is None:
        say(why_no_plan())
    show_path(bundle.path)
    has_features = bundle.manifest.output.layer is not None
    predict = next_prediction(bundle.path, None if training is None else training.data, has_features=has_features)
    say(f"next: {predict or f'alexnet-deploy check {shlex.quote(str(bundle.path))}'}")


def _refuse_int8_options(precision: str, options: dict[str, object]) -> None:
    """Raise UsageError if one of these options, None each if not given, was given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        names, verb = ", ".join(given), "applies" if len(given) == 1 else "apply"
        raise UsageError(
            f"{names} {verb} to int8 only, but the precision is {precision}; pass --precision int8, or remove "
            f"{'it' if len(given) == 1 else 'them'}"
        )


def _confidence_source(value: str | None) -> "ConfidenceSource | None":
    if value is None or value == "validation":
        return None if value is None else "validation"
    return Path(value)


def _int8_request(**options: object) -> "Int8Request | None":
    """Return the request for int8; None if none of its options, None each, was given."""
    from alexnet_deploy.pipeline.int8.calibration import Int8Request

    given = {name: value for name, value in options.items() if value is not None}
    return Int8Request(**given) if given else None  # type: ignore[arg-type]


def _summarise(manifest: "Manifest") -> None:
    """Print the proof of a new bundle, and what it does not prove."""
    from alexnet_deploy.cli.terminal import say, say_lines, width_of
    from alexnet_deploy.core.confidence.record import Confidence
    from alexnet_deploy.inspection.describe import confidence_words, describe_plan, gate_words, parity_table

    say_lines(parity_table(manifest.parity, width_of(sys.stderr)))
    if manifest.gate is not None:
        say_lines(gate_words(manifest.gate, manifest.output))
    if isinstance(manifest.confidence, Confidence):
        say(confidence_words(manifest.confidence))
    for record in manifest.plans:
        say(f"{describe_plan(record)}; {record.build_seconds:.1f} s")
    weak = [fault for fault, multiple in manifest.golden.separation.items() if multiple < 1]
    if weak:
        say(f"with these weights the golden images cannot detect, only the graph's audit can: {', '.join(weak)}")
