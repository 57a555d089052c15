"""`alexnet-deploy triton`."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_deploy.core.errors import UsageError

PlacesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[[NAME[:VERSION]=]BUNDLE]... DIR",
        help="Bundles, and the new directory of the repository. Default: the latest bundle, under its own name.",
    ),
]
PlatformOption = Annotated[
    Literal["onnxruntime", "openvino", "tensorrt", "python"],
    typer.Option(help="Triton's backend that runs the model; python is our own engine in its Python backend."),
]


def triton(places: PlacesArgument, platform: PlatformOption = "onnxruntime") -> None:
    """Write a model repository for Triton Inference Server, with our decoder in front of each model."""
    from alexnet_deploy.cli.terminal import say, show_path
    from alexnet_deploy.core.names import latest_bundle
    from alexnet_deploy.pipeline.servers.triton import write_repository
    from alexnet_deploy.serve.settings import places_of

    *bundles, last = places
    out = Path(last)
    if (out / "manifest.json").exists():
        raise UsageError(f"{out}: is a bundle; the last argument is the new directory of the repository")
    found = places_of(bundles or [str(latest_bundle())])
    write_repository(found, out, platform)
    say("each model was proved when its bundle was exported; prove the server too, when it runs:")
    for place in found:
        command = f"alexnet-deploy check {shlex.quote(str(place.bundle))} --url http://localhost:8000"
        say(f"  {command} --model {place.name}:{place.version}")
    show_path(out)
