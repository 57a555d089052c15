"""`alexnet-deploy build` and `embed`: what other programs need beside the bundle."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.options import (
    BundleArgument,
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
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import check_new_place, find_bundle, new_bundle, note_latest


def build(
    bundle: BundleArgument = None,
    plan: PlanOption = None,
    min_batch: MinBatchOption = None,
    opt_batch: OptBatchOption = None,
    max_batch: MaxBatchOption = None,
    workspace: WorkspaceOption = None,
    version_compatible: VersionCompatibleOption = False,
    hardware_compatible: HardwareCompatibleOption = False,
    out: Annotated[Path | None, typer.Option(help="Path of the new bundle. Default: a new name in bundles/.")] = None,
    force: ForceOption = False,
) -> None:
    """Build a TensorRT plan from a bundle's graph, and write it to a new bundle."""
    from alexnet_deploy.cli.terminal import building_bar, say, show_path, stages
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.engines.tensorrt.build import BuildObserver
    from alexnet_deploy.inspection.describe import describe_plan
    from alexnet_deploy.pipeline.plans import build as build_bundle
    from alexnet_deploy.pipeline.plans import why_no_plan

    check_new_place(out)
    opened = open_bundle(find_bundle(bundle))
    request = plan_request(plan, min_batch, opt_batch, max_batch, workspace, version_compatible, hardware_compatible)
    if request is None:
        raise UsageError(why_no_plan() if plan is None else "--plan none builds no plan; choose a library")
    manifest = opened.manifest
    place = out or new_bundle(manifest.architecture.name, manifest.precision)
    with stages() as stage, building_bar() as show:
        observer = BuildObserver(say=stage, on_progress=show, debug=debug_line())
        built = build_bundle(opened, place, request, force=force, observer=observer)
    note_latest(built.path)
    record = built.manifest.plans[-1]
    say(f"{describe_plan(record)}; {record.build_seconds:.1f} s")
    show_path(built.path)
    say(f"next: alexnet-deploy check {shlex.quote(str(built.path))}")


def embed(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] DIR",
            help="A bundle or its name, by default the latest; and a new directory.",
        ),
    ],
) -> None:
    """Write a C++ project around a bundle: it builds with CMake, and tests itself on the golden files."""
    from alexnet_deploy.cli.terminal import say, show_path
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.pipeline.embed import cmake_options
    from alexnet_deploy.pipeline.embed import embed as write_project

    if len(places) > 2:
        raise UsageError(f"{places[2]}: unexpected; embed takes a bundle and a new directory")
    *bundles, out = places
    path = find_bundle(bundles[0] if bundles else None)
    if not bundles:
        say(f"no BUNDLE given: using {path}")
    write_project(open_bundle(path), out)
    show_path(out)
    build = shlex.quote(str(out / "build"))
    configure = shlex.join(["cmake", "-S", str(out), "-B", str(out / "build"), *cmake_options()])
    say(f"next: {configure} && cmake --build {build} --parallel && ctest --test-dir {build}")
