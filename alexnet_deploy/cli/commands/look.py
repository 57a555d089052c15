"""`alexnet-deploy inspect`, `doctor` and `demo`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.options import JsonOption, print_json
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import find_anything, prediction_of
from alexnet_deploy.core.process.interruption import unwinding
from alexnet_deploy.core.process.say import counted


def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="A run, a bundle or its name, a weights file, an ONNX graph or a packed set."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Describe a run, a weights file, a bundle, a graph or a packed set."""
    from alexnet_deploy.cli.terminal import show, width_of
    from alexnet_deploy.inspection.describe import describe_facts
    from alexnet_deploy.inspection.facts import inspect_path

    facts = inspect_path(find_anything(path))
    if as_json:
        print_json(facts)
    else:
        show(describe_facts(facts, width_of(sys.stdout)))


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine can run, what is missing, and how to install it."""
    from alexnet_deploy.cli.terminal import show
    from alexnet_deploy.inspection.doctor import Examination, examine

    marks = {"ok": "ok", "missing": "--", "broken": "!!", "fact": "  "}
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            # Printed one by one: each library takes a while to load.
            show(f"{marks[finding.state]}  {finding.subject:<14} {finding.words}")
    passed = all(finding.state != "broken" for finding in findings)
    if as_json:
        print_json(Examination(passed=passed, findings=tuple(findings)))
    if not passed:
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="New directory for all output.")] = Path("demo"),
) -> None:
    """Train, export, verify and predict on drawn images, and write a report."""
    from alexnet_deploy.cli.terminal import say, show_path, training_bar
    from alexnet_deploy.pipeline.demo import run_demo

    if os.path.lexists(out):
        raise UsageError(f"{out}: already exists; choose another --out")
    with unwinding():
        result = run_demo(out, say=say, training_bar=training_bar)
    say(
        f"top-1 {result.accuracy:.1%} on {counted(result.num_images, 'validation image')}, ten views, on a verified "
        f"engine; {result.seconds:.0f} s in total"
    )
    show_path(result.report)
    say(f"next: {prediction_of(result.images, result.bundle)}")
