"""`alexnet-deploy check`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.cli.options import BackendOption, BundleArgument, DeviceOption, JsonOption, print_json, read_token
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import (
    RUNS,
    check_exists,
    find_bundle,
    find_weights,
    model_name,
    next_prediction,
    weights_with,
)

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.store import Bundle
    from alexnet_deploy.engines.proof.golden_files import DecoderRow
    from alexnet_deploy.engines.proof.layers import LayerTable


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
    pixels: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Check only this program's decoding of the golden files: paths on stdin, one a line; raw uint8 "
            "256x256x3 RGB of each on stdout, in order.",
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Also compare each layer of the running engines, and name the first that is at fault."
        ),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Check a server instead of this machine's engines: any server of the Open Inference Protocol v2 over "
            "HTTP is asked for the golden answers.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME[:VERSION]", help="With --url: the server's model. Default: the bundle's name."),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="With --url: file with a bearer token.")] = None,
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
    if pixels is not None:
        if weights is not None or data is not None or backend != "auto" or device != "auto" or layers:
            raise UsageError("--pixels runs no engine; leave out --weights, --data, --backend, --device and --layers")
        _check_pixels(opened, pixels, as_json=as_json)
        return
    if url is None and (model is not None or token_file is not None):
        raise UsageError("--model and --token-file are for --url")
    if url is not None:
        if weights is not None or data is not None or backend != "auto" or device != "auto" or layers:
            raise UsageError("--url runs no engine here; leave out --weights, --data, --backend, --device and --layers")
        _check_server(opened, url, model, token_file, as_json=as_json)
        return
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
            with_layers=layers,
            say=stage,
        )
    if as_json:
        print_json(
            {
                "passed": result.passed,
                "rows": result.rows,
                "problems": result.problems,
                "decoder": result.decoder,
                **({"layers": [_layers_record(table) for table in result.layers]} if layers else {}),
            }
        )
    else:
        show(parity_table(result.rows, width_of(sys.stdout)))
        if result.decoder is not None:
            _show_decoder(result.decoder)
        for problem in result.problems:
            show(f"FAILED: {problem}")
        _show_layers(result.layers)
    if images is not None and images.truths is None:
        say(f"accuracy was not measured: not all folders in {data} are named after a label")
    for line in result.not_done:
        say(f"not done: {line}")
    say(f"{opened.path}: {'passed' if result.passed else 'FAILED'}")
    if not result.passed:
        raise typer.Exit(1)
    training = None if loaded is None else loaded.weights.training
    has_features = opened.manifest.output.layer is not None
    if predict := next_prediction(opened.path, None if training is None else training.data, has_features=has_features):
        say(f"next: {predict}")


def _check_pixels(bundle: "Bundle", command: str, *, as_json: bool) -> None:
    """Check a program that decodes images; exit with 1 if its pixels differ."""
    from alexnet_deploy.cli.terminal import say, stages
    from alexnet_deploy.pipeline.golden.pixels import check_program

    with stages() as stage:
        row = check_program(bundle, command, say=stage)
    if as_json:
        print_json({"passed": row.passed, "rows": (), "problems": (), "decoder": row})
    else:
        _show_decoder(row)
    say("not done: the bundle was not checked and no engine was run; run `alexnet-deploy check` without --pixels")
    say(f"{command}: {'passed' if row.passed else 'FAILED'}")
    if not row.passed:
        raise typer.Exit(1)


def _check_server(bundle: "Bundle", url: str, model: str | None, token_file: Path | None, *, as_json: bool) -> None:
    """Check a server's answers; exit with 1 if they differ."""
    from alexnet_deploy.cli.terminal import say, show, stages, width_of
    from alexnet_deploy.engines.remote import RemoteModel
    from alexnet_deploy.inspection.describe import parity_table
    from alexnet_deploy.pipeline.servers.check import check_server

    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: a URL starts with http:// or https://")
    name, _, version = (model or model_name(bundle.path)).partition(":")
    token = None if token_file is None else read_token(token_file)
    with stages() as stage:
        result = check_server(bundle, RemoteModel(url=url, name=name, version=version or None, token=token), say=stage)
    if as_json:
        print_json({"passed": result.passed, "rows": result.rows, "problems": (), "decoder": None})
    else:
        show(parity_table(result.rows, width_of(sys.stdout)))
    for line in result.not_done:
        say(f"not done: {line}")
    say(f"{url}: {'passed' if result.passed else 'FAILED'}")
    if not result.passed:
        raise typer.Exit(1)


def _show_decoder(row: "DecoderRow") -> None:
    from alexnet_deploy.cli.terminal import show
    from alexnet_deploy.engines.proof.golden_files import describe_row

    show(describe_row(row))
    for failure in row.failures:
        show(f"FAILED: {failure}")


def _show_layers(tables: Sequence["LayerTable"]) -> None:
    from alexnet_deploy.cli.terminal import show
    from alexnet_deploy.inspection.layer_table import layer_table

    for table in tables:
        show(f"\n{layer_table(table)}")
        show(f"{table.engine}: no layer is at fault" if table.fault is None else f"FAILED: {table.fault}")


def _layers_record(table: "LayerTable") -> dict[str, object]:
    import msgspec

    at_fault = table.at_fault
    verdict = {"at_fault": None if at_fault is None else at_fault.name, "fault": table.fault}
    return {**msgspec.to_builtins(table), **verdict}
