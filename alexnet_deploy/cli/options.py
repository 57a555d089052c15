"""Options shared by several commands."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from alexnet_deploy.core.bundle.vocabulary import PlanBackend
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.engines.registry import Backend

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.plans import PlanRequest

BackendName: TypeAlias = Literal["auto", Backend]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BackendOption = Annotated[BackendName, typer.Option(help="Backend that runs the bundle; auto uses the fastest one.")]


def _device(name: str) -> str:
    if re.fullmatch("auto|cpu|cuda(:[0-9]+)?", name) is None:
        hint = "; did you mean cuda?" if name.lower().startswith(("gpu", "nvidia")) else ""
        raise UsageError(f"--device: must be auto, cpu, cuda or cuda:N, got {name}{hint}")
    return name


DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N",
        help="Device that runs it; cuda:N is NVIDIA GPU N, from 0.",
        callback=_device,
    ),
]
MaxPixelsOption = Annotated[int | None, typer.Option(min=1, help="Refuse larger images. Default: 268,435,456.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads for the engine. Default: the backend's choice.")
]
BundleOption = Annotated[Path | None, typer.Option(help="A bundle or its name. Default: the latest.")]
BundleArgument = Annotated[Path | None, typer.Argument(help="A bundle or its name. Default: the latest.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Move an existing --out aside first.")]

PlanName: TypeAlias = Literal[PlanBackend, "none"]
PlanOption = Annotated[
    PlanName | None,
    typer.Option(
        help="Library that builds a plan; tensorrt-rtx needs no GPU. Default: the installed one if there is a GPU."
    ),
]
MinBatchOption = Annotated[int | None, typer.Option(min=1, help="plan: smallest batch size. Default: 1.")]
OptBatchOption = Annotated[int | None, typer.Option(min=1, help="plan: batch size to optimise for. Default: 8.")]
MaxBatchOption = Annotated[int | None, typer.Option(min=1, help="plan: largest batch size. Default: 16.")]
WorkspaceOption = Annotated[
    int | None, typer.Option(min=1, help="plan: limit on a layer's workspace memory, MiB. Default: the library's.")
]
VersionCompatibleOption = Annotated[
    bool, typer.Option("--version-compatible", help="plan: also runs on later releases of tensorrt; slightly slower.")
]
HardwareCompatibleOption = Annotated[
    bool, typer.Option("--hardware-compatible", help="plan: runs on all GPUs from Ampere on; slightly slower.")
]


def plan_request(
    plan: PlanName | None,
    min_batch: int | None,
    opt_batch: int | None,
    max_batch: int | None,
    workspace: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
) -> "PlanRequest | None":
    """Return the plan that the options request, None if no plan is to be built.

    Raises UsageError for batch sizes that do not form a profile, and for plan options when no plan is to be built.
    """
    from alexnet_deploy.core.bundle.plans import PlanOptions, Profile
    from alexnet_deploy.pipeline.plans import PlanRequest, backend_that_builds_here

    backend = None if plan == "none" else plan or backend_that_builds_here()
    batches = {"min_batch": min_batch, "opt_batch": opt_batch, "max_batch": max_batch}
    given = {name: size for name, size in batches.items() if size is not None}
    if backend is None:
        if given or workspace is not None or version_compatible or hardware_compatible:
            raise UsageError("plan options were given, but no plan will be built; choose a library with --plan")
        return None
    try:
        profile = Profile(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    options = PlanOptions(
        workspace_bytes=None if workspace is None else workspace << 20,
        is_version_compatible=version_compatible,
        is_hardware_compatible=hardware_compatible,
    )
    return PlanRequest(backend=backend, profile=profile, options=options)


def print_json(record: object) -> None:
    """Print a record as one line of JSON; a path that is not UTF-8 is escaped as in the rows of predict."""
    import msgspec

    from alexnet_deploy.cli.terminal import for_stdout
    from alexnet_deploy.core.inputs.paths import Input

    def in_text(value: object) -> object:
        match value:
            case str():
                return Input(name=value).text
            case dict():
                return {in_text(key): in_text(item) for key, item in value.items()}
            case list() | tuple():
                return [in_text(item) for item in value]
            case _:
                return value

    sys.stdout.write(f"{for_stdout(msgspec.json.encode(in_text(msgspec.to_builtins(record))).decode())}\n")


def debug_line() -> Say:
    """Return a function for a library's own log lines: it writes to stderr with --debug, and drops them without."""
    from alexnet_deploy.cli.terminal import say

    return say if "--debug" in sys.argv else say_nothing


def read_token(file: Path) -> str:
    """Return the bearer token in a file; raises UsageError if there is none."""
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a token: {error}") from error
    if not token or not token.isprintable():
        raise UsageError(f"{file}: a token must be one line of printable ASCII characters")
    return token
