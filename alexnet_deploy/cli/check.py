"""`alexnet-deploy check`."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.options import BackendOption, BundleArgument
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.defaults import RUNS, latest_bundle, weights_with


def check(
    bundle: BundleArgument = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="The weights it was made from; unless given, those with the right digest in runs/."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Pictures to compare on, besides the golden ones.")] = None,
    backend: BackendOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Prove a bundle again: its bytes, its graph, and every engine against the trained network."""
    import msgspec

    from alexnet_deploy.check import check as check_bundle
    from alexnet_deploy.check import pictures_in
    from alexnet_deploy.core.bundle import open_bundle
    from alexnet_deploy.core.weights import load_weights
    from alexnet_deploy.describe import parity_table
    from alexnet_deploy.terminal import say, stages

    opened = open_bundle(bundle or latest_bundle())
    wanted = opened.manifest.provenance.weights_sha256
    trained = weights or weights_with(wanted)
    if weights is None and trained is not None:
        say(f"no --weights given: taking {trained}, which this bundle was made from")
    if data is not None and trained is None:
        raise UsageError(
            f"--data needs the trained network, and no {RUNS}/*/weights.safetensors has the SHA-256 {wanted[:12]}... "
            f"that {opened.path} was made from; give its --weights"
        )
    loaded = load_weights(trained) if trained else None
    pictures = pictures_in(data, opened.labels) if data else None
    with stages() as stage:
        result = check_bundle(
            opened, backends=None if backend == "auto" else [backend], weights=loaded, pictures=pictures, say=stage
        )
    if as_json:
        typer.echo(msgspec.json.encode({"passed": result.passed, "rows": result.rows, "problems": result.problems}))
    else:
        typer.echo(parity_table(result.rows))
        for problem in result.problems:
            typer.echo(f"FAILED: {problem}")
    if pictures is not None and pictures.truths is None:
        say(f"accuracy was not measured: the folders in {data} are not named after the labels, or not all of them")
    for line in result.not_done:
        say(f"not done: {line}")
    say(f"{opened.path}: {'passed' if result.passed else 'FAILED'}")
    if not result.passed:
        raise typer.Exit(1)
