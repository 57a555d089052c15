"""`alexnet-deploy check`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.options import BackendOption, BundleArgument, DeviceOption, JsonOption, print_json
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import RUNS, check_exists, find_bundle, find_weights, next_prediction, weights_with


def check(
    bundle: BundleArgument = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights that the bundle was made from, or their run. Default: those in runs/ with the right digest."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Images to compare on, in addition to the golden images.")] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle again: its digests, its graph, and every engine against the trained network."""
    from alexnet_deploy.cli.terminal import say, show, stages, width_of
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.core.model.weights import load_weights
    from alexnet_deploy.inspection.describe import parity_table
    from alexnet_deploy.pipeline.check import check as check_bundle
    from alexnet_deploy.pipeline.check import images_in

    opened = open_bundle(find_bundle(bundle))
    if data is not None:
        check_exists(data, "file or folder")
    wanted = opened.manifest.provenance.weights_sha256
    trained = find_weights(weights) if weights else weights_with(wanted)
    if weights is None and trained is not None:
        say(f"no --weights given: using {trained}, which this bundle was made from")
    if data is not None and trained is None:
        raise UsageError(
            f"--data needs the weights that {opened.path} was made from, but no {RUNS}/*/weights.safetensors has "
            f"their SHA-256 {wanted[:12]}...; pass them with --weights"
        )
    loaded = load_weights(trained) if trained else None
    images = images_in(data, opened.labels) if data else None
    with stages() as stage:
        result = check_bundle(
            opened,
            backends=None if backend == "auto" else [backend],
            device=device,
            weights=loaded,
            images=images,
            say=stage,
        )
    if as_json:
        print_json({"passed": result.passed, "rows": result.rows, "problems": result.problems})
    else:
        show(parity_table(result.rows, width_of(sys.stdout)))
        for problem in result.problems:
            show(f"FAILED: {problem}")
    if images is not None and images.truths is None:
        say(f"accuracy was not measured: not all folders in {data} are named after a label")
    for line in result.not_done:
        say(f"not done: {line}")
    say(f"{opened.path}: {'passed' if result.passed else 'FAILED'}")
    if not result.passed:
        raise typer.Exit(1)
    training = None if loaded is None else loaded.weights.training
    if predict := next_prediction(opened.path, None if training is None else training.data):
        say(f"next: {predict}")
