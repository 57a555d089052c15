"""`alexnet-deploy inspect`, `doctor`, `recipes` and `demo`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.options import JsonOption, print_json
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import find_anything, find_entry, prediction_of
from alexnet_deploy.core.process.interruption import unwinding
from alexnet_deploy.core.process.say import counted


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run, a bundle or its name, a weights file, an ONNX graph, a packed set, an architecture such as "
            "paper, or a .toml file with a table of layers."
        ),
    ],
    as_json: JsonOption = False,
    as_toml: Annotated[
        bool,
        typer.Option(
            "--toml",
            help="Print only the table of layers, as a file for --arch; not for a graph or a packed set.",
        ),
    ] = False,
) -> None:
    """Describe a run, a weights file, a bundle, a graph, a packed set or an architecture."""
    from alexnet_deploy.cli.terminal import show, width_of
    from alexnet_deploy.core.model.family import ARCHITECTURES
    from alexnet_deploy.core.model.table_text import architecture_as_toml, architecture_by_name_or_file
    from alexnet_deploy.inspection.describe import describe, describe_facts
    from alexnet_deploy.inspection.facts import inspect_path, table_at

    if as_toml and as_json:
        raise UsageError("--toml and --json exclude each other; remove one of them")
    is_member = str(path) in ARCHITECTURES and find_entry(path) is None
    is_table = is_member or (path.suffix == ".toml" and path.is_file())
    table = architecture_by_name_or_file(str(path)) if is_table else None
    if as_toml:
        sys.stdout.write(architecture_as_toml(table or table_at(find_anything(path))))
        return
    if table is not None:
        if as_json:
            print_json(table)
        else:
            show(describe(table))
        return
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


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A built-in recipe, or a .toml file. Default: list the built-in ones.")
    ] = None,
) -> None:
    """List the training recipes, or print one as TOML with every field explained."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.train.recipe_text import recipe_as_toml, recipe_summaries

    if name is not None:
        typer.echo(recipe_as_toml(name), nl=False)
        return
    summaries = list(recipe_summaries())
    width = max(len(name) for name, *_ in summaries)
    for shipped, purpose, source in summaries:
        typer.echo(f"{shipped:<{width}}  {purpose}")
        typer.echo(f"{'':<{width}}  {source}")
    say("next: alexnet-deploy recipes folder > my.toml, then alexnet-deploy train images/ --recipe my.toml")


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
