"""`alexnet-deploy inspect`, `doctor` and `demo`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.core.errors import UsageError


def inspect(
    path: Annotated[Path, typer.Argument(help="A weights file, a bundle, an ONNX graph or a packed set.")],
) -> None:
    """Say what a weights file, a bundle, a graph or a packed set is."""
    from alexnet_deploy.describe import describe_path

    typer.echo(describe_path(path))


def doctor() -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    from alexnet_deploy.doctor import examine

    marks = {"ok": "ok", "missing": "--", "broken": "!!", "fact": "  "}
    num_broken = 0
    for finding in examine():
        num_broken += finding.state == "broken"
        typer.echo(f"{marks[finding.state]}  {finding.subject:<14} {finding.words}")
    if num_broken:
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="New directory for everything it makes.")] = Path("demo"),
) -> None:
    """Do all of it on drawn pictures, ending in a report to look at."""
    from alexnet_deploy.demo import run_demo
    from alexnet_deploy.terminal import say, training_bar

    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; choose another --out")
    result = run_demo(out, say=say, training_bar=training_bar)
    say(
        f"{result.accuracy:.1%} of {result.num_pictures} validation pictures right, ten views, on a proved engine; "
        f"{result.seconds:.0f} s in all"
    )
    typer.echo(result.report)
    say(f"next: alexnet-deploy predict --bundle {result.bundle} images/")
