"""`alexnet-deploy export`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_deploy.cli.options import (
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


def export(
    weights: Annotated[
        Path | None, typer.Argument(help="A weights file, or a run or its name; the latest run unless given.")
    ] = None,
    precision: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="What the graph computes in.")] = "fp32",
    views: Annotated[
        Literal["ten", "center"], typer.Option(help="The paper's ten views of each image, or its centre.")
    ] = "ten",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="int8: images to find ranges on, a folder or a packed set; the training images unless given."
        ),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(min=1, help="int8: most images to find ranges on. Default: 512.")
    ] = None,
    calibration_cache: Annotated[
        Path | None, typer.Option(help="int8: file that keeps what was counted, for the next export.")
    ] = None,
    method: Annotated[
        CalibrationMethod | None,
        typer.Option(
            help="int8: how ranges are found. Default: the first of mse, entropy, minmax, percentile that holds on the "
            "golden images."
        ),
    ] = None,
    rest: Annotated[
        Rest | None, typer.Option(help="int8: what everything else computes in. Default: fp32; fp16 is for GPUs.")
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(help="int8: a layer that stays in float, such as conv1; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="int8: labelled images, DIR/CLASS or DIR/val/CLASS, to measure accuracy on.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="int8: most points of top-1 that may be lost on --data. Default: 0.5.")
    ] = None,
    plan: PlanOption = None,
    min_batch: MinBatchOption = None,
    opt_batch: OptBatchOption = None,
    max_batch: MaxBatchOption = None,
    workspace: WorkspaceOption = None,
    version_compatible: VersionCompatibleOption = False,
    hardware_compatible: HardwareCompatibleOption = False,
    out: Annotated[
        Path | None, typer.Option(help="The new bundle. Default: bundles/ARCH-PRECISION-TIME.bundle.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Move an existing --out aside first.")] = False,
) -> None:
    """Turn weights into a bundle that is proved before it is published."""
    from alexnet_deploy.cli.terminal import building_bar, say, say_lines, show_path, stages, width_of
    from alexnet_deploy.core.model.weights import load_weights
    from alexnet_deploy.engines.tensorrt.build import BuildObserver
    from alexnet_deploy.inspection.describe import describe_plan, gate_words, interruption_words, parity_table
    from alexnet_deploy.pipeline.calibration import Int8Request
    from alexnet_deploy.pipeline.export import ExportRequest
    from alexnet_deploy.pipeline.export import export as publish
    from alexnet_deploy.pipeline.plans import why_no_plan

    wanted = {
        "calibrate": calibrate,
        "num_images": calibration_images,
        "cache": calibration_cache,
        "method": method,
        "rest": rest,
        "keep_float": tuple(keep_float) if keep_float else None,
        "max_drop_points": max_drop,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if max_drop is not None and data is None:
        raise UsageError("--max-drop is measured on labelled images: give their folder as --data")
    check_new_place(out)
    asked = plan_request(plan, min_batch, opt_batch, max_batch, workspace, version_compatible, hardware_compatible)
    request = ExportRequest(
        precision=precision,
        views=views,
        int8=Int8Request(**given) if given else None,  # type: ignore[arg-type]
        data=data,
        plan=asked,
    )
    for folder in (calibrate, data):
        if folder is not None:
            check_exists(folder, "folder of images")
    found = find_weights(weights)
    if weights is None:
        say(f"no WEIGHTS given: taking {found}")
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
    say_lines(parity_table(bundle.manifest.parity, width_of(sys.stderr)))
    if bundle.manifest.gate is not None:
        say_lines(gate_words(bundle.manifest.gate))
    for record in bundle.manifest.plans:
        say(f"{describe_plan(record)}; {record.build_seconds:.1f} s")
    if asked is None and plan is None:
        say(why_no_plan())
    weak = [fault for fault, multiple in bundle.manifest.golden.separation.items() if multiple < 1]
    if weak:
        say(f"these weights do not feel, so only the graph's audit would catch: {', '.join(weak)}")
    show_path(bundle.path)
    training = loaded.weights.training
    predict = next_prediction(bundle.path, None if training is None else training.data)
    say(f"next: {predict or f'alexnet-deploy check {shlex.quote(str(bundle.path))}'}")
