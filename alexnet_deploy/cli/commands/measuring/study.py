"""`alexnet-deploy study`."""

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import check_data_exists
from alexnet_deploy.core.process.interruption import unwinding

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.study.plan import StudyRequest
    from alexnet_deploy.pipeline.study.study import Studied

STUDIES = Path("studies")

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

NameArgument = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A built-in study, or a .toml file. Default: list the built-in ones."),
]
DataArgument = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", help="Labelled images or a packed set, as for `train`. Default: print the study."),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Directory for the study; resumed if it has begun. Default: studies/NAME.")
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Runs of each variant; intervals need two or more.")]
ArchOption = Annotated[
    str | None,
    typer.Option(help="The base's architecture, or a .toml file with a table of layers. Default: the study's."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a field of the recipe in all variants, for example --set epochs=8."
    ),
]
ImagesOption = Annotated[
    int | None, typer.Option(min=1, help="Number of training images, evenly spread. Default: all.")
]
BudgetOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Shrink the study to about this time, for example 30m or 2h, and say how."),
]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Runs side by side. Default: one per GPU, or one on the CPU.")
]


def study(
    name: NameArgument = None,
    data: DataArgument = None,
    out: OutOption = None,
    seeds: SeedsOption = 3,
    arch: ArchOption = None,
    settings: SetOption = None,
    images: ImagesOption = None,
    budget: BudgetOption = None,
    jobs: JobsOption = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")] = "auto",
) -> None:
    """Run a claim about a network again, with several seeds and intervals. Resumes if it was interrupted."""
    # The first two defaults are those of NAME and DATA.
    _, _, *defaults = study.__defaults__ or ()
    if data is None and [out, seeds, arch, settings, images, budget, jobs, device] != defaults:
        raise UsageError(f"study {name or 'NAME'}: options need DATA; without it a study is only printed")
    if name is None:
        _list()
        return
    if data is None:
        from alexnet_deploy.pipeline.study.definition import study_by_name, study_text

        study_by_name(name)
        typer.echo(study_text(name), nl=False)
        return
    from alexnet_deploy.pipeline.study.plan import StudyRequest
    from alexnet_deploy.train.recipe import parse_settings
    from alexnet_deploy.train.run import choose_device

    check_data_exists(data)
    request = StudyRequest(
        study=name,
        data=data,
        arch=arch,
        settings=parse_settings(settings or []),
        seeds=seeds,
        images=images,
        budget_seconds=None if budget is None else _seconds(budget),
        device="cuda" if choose_device(device) == "cuda" else "cpu",
    )
    _conclude(_run(request, out or STUDIES / Path(name).stem, jobs))


def _run(request: "StudyRequest", out: Path, jobs: int | None) -> "Studied":
    import torch

    from alexnet_deploy.cli.terminal import images_bar, say, study_bar
    from alexnet_deploy.core.process.memory import keep_freed_memory
    from alexnet_deploy.pipeline.study.running.runs import Workplace
    from alexnet_deploy.pipeline.study.study import run_study

    num_devices = torch.cuda.device_count() if request.device == "cuda" else 1
    if request.device == "cpu":
        keep_freed_memory()
    try:
        with unwinding(), study_bar() as show, images_bar("packing") as show_images:
            here = Workplace(jobs=jobs or num_devices, num_devices=num_devices, say=say, on_progress=show)
            return run_study(request, out, here, on_packed=show_images)
    except (KeyboardInterrupt, SystemExit):
        say("interrupted; repeat the command to resume")
        raise


def _conclude(studied: "Studied") -> None:
    from alexnet_deploy.cli.terminal import say, show, width_of
    from alexnet_deploy.pipeline.study.results.table import study_table

    show(study_table(studied.result, width_of(sys.stdout)))
    say(f"report: {studied.report}")
    files = ("results.csv", "curves.csv", "study.json", "times.csv")
    say(f"results: {', '.join(shlex.quote(str(studied.report.with_name(file))) for file in files)}")


def _list() -> None:
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.pipeline.study.definition import study_summaries

    summaries = list(study_summaries())
    width = max(len(name) for name, *_ in summaries)
    for shipped, purpose, source in summaries:
        typer.echo(f"{shipped:<{width}}  {purpose}")
        typer.echo(f"{'':<{width}}  {source}")
    say("next: alexnet-deploy study lrn images/ --arch tiny --budget 30m")


def _seconds(budget: str) -> float:
    """Return the seconds of a duration such as 90s, 30m or 1.5h; raises UsageError."""
    match = _BUDGET.fullmatch(budget.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"--budget {budget}: expected a duration such as 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]
