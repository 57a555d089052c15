"""`alexnet-deploy train`."""

import os
import shlex
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.run_files import CSV, METRICS, TENSORBOARD, LogKind
from alexnet_deploy.core.names import DRAWN, RUNS, check_exists, check_new_place, find_run, note_latest
from alexnet_deploy.core.process.say import counted, say_nothing

if TYPE_CHECKING:
    from alexnet_deploy.core.model.architecture import Architecture
    from alexnet_deploy.pipeline.run_report import RunReport
    from alexnet_deploy.train.data.scan import Survey
    from alexnet_deploy.train.loop.checkpoint import Checkpoint
    from alexnet_deploy.train.recipe import Recipe
    from alexnet_deploy.train.run import Resume
    from alexnet_deploy.train.runtime.placement import Placement


def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder with train/CLASS/ and val/CLASS/, or CLASS/; archives of ILSVRC-2012 or CIFAR-10; a packed "
            "set; drawn images unless given."
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="caffe, caffenet, original, paper, single_tower, tiny or torchvision. Default: paper; for drawn "
            "images tiny."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="drawn, fast, folder, original, paper, two-class, or a file ending in .toml; see `alexnet-deploy "
            "recipes`. Default: folder; for drawn images drawn."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe, as --recipe folder --set patience=3; may be repeated. `alexnet-deploy "
            "recipes folder` explains the fields.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images. Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step. Default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate. Default: the recipe's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of everything that is random. Default: the recipe's.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    columns: Annotated[
        bool,
        typer.Option("--columns", help="The paper's arrangement: the two columns of `original` on two GPUs."),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that decode ahead what is not packed. Default: one a processor, 8 at most."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New directory for the run. Default: runs/ARCH-TIME.")] = None,
    log: Annotated[
        list[LogKind] | None,
        typer.Option(
            help="Write metrics.csv or TensorBoard's event files as well as metrics.jsonl; may be repeated. A resumed "
            "run continues those it has."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out, or the newest in runs/, as if it had never stopped."
        ),
    ] = False,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Continue the run in --out if it has a checkpoint, start it there if not: one command for a "
            "supervisor (Slurm, Kubernetes) that restarts its jobs.",
        ),
    ] = False,
    any_machine: Annotated[
        bool,
        typer.Option("--any-machine", help="Resume also with other threads, torch or device: to other last bits."),
    ] = False,
) -> None:
    """Train on a folder of images, or on drawn ones."""
    from alexnet_deploy.cli.terminal import images_bar, say, show_path, training_bar
    from alexnet_deploy.pipeline.run_report import report_run
    from alexnet_deploy.train.loop.checkpoint import CHECKPOINT
    from alexnet_deploy.train.loop.logs import check_log_packages
    from alexnet_deploy.train.loop.record import Observer
    from alexnet_deploy.train.recipe import parse_settings
    from alexnet_deploy.train.run import choose_device, look_over
    from alexnet_deploy.train.run import train as train_to_weights
    from alexnet_deploy.train.runtime.distributed import joined
    from alexnet_deploy.train.runtime.malloc import keep_freed_memory
    from alexnet_deploy.train.runtime.placement import placed

    if any_machine and not (resume or auto_resume):
        raise UsageError("--any-machine is for --resume and --auto-resume")
    if auto_resume and (resume or out is None):
        raise UsageError("--auto-resume needs --out, and decides by itself whether to --resume")
    check_log_packages(log or ())
    begun = time.perf_counter()
    changes = _changes(
        parse_settings(settings or []), epochs=epochs, batch_size=batch_size, learning_rate=lr, seed=seed
    )
    chosen = choose_device(device)
    with joined(chosen) as (ranks, own_device):
        # Of several processes the first draws, names the run, looks the images over and speaks for all.
        wish = _Wish(
            out=out,
            data=data,
            arch=arch,
            recipe=recipe,
            changes=changes,
            placement=placed(own_device, ranks=ranks, threads=workers),
            columns=columns,
        )
        task = ranks.broadcast(lambda: _task(wish, resume=resume, auto_resume=auto_resume, any_machine=any_machine))
        found = ranks.broadcast(
            lambda: look_over(task.data, task.architecture, on_found=lambda num_classes: _check(task, num_classes))
        )
        if chosen == "cpu":
            # From here on: the survey's images may be large, and are gone.
            keep_freed_memory()
        if ranks.is_first:
            _announce(found, task, chosen, ranks.size)
        try:
            with training_bar() if ranks.is_first else nullcontext(lambda progress: None) as show:
                path = train_to_weights(
                    found,
                    task.architecture,
                    task.recipe,
                    task.run,
                    placement=placed(own_device, ranks=ranks, columns=task.columns, threads=workers),
                    resume=task.resume,
                    observer=Observer(say=say if ranks.is_first else say_nothing, on_progress=show, logs=log or ()),
                )
        except (KeyboardInterrupt, SystemExit):
            if ranks.is_first and (task.run / CHECKPOINT).exists():
                note_latest(task.run)
                say(
                    f"interrupted; `alexnet-deploy train --resume --out {shlex.quote(str(task.run))}` goes on from here"
                )
            raise
    if ranks.is_first:
        # Whatever becomes of the report.
        show_path(path)
        try:
            note_latest(task.run)
            with images_bar("asking by ten views") as show_images:
                report = report_run(path, found, device=own_device, threads=workers, on_progress=show_images)
        except BaseException:
            say(f"the weights are done; `alexnet-deploy train --resume --out {task.run}` reports on them")
            raise
        _conclude(report, seconds=time.perf_counter() - begun)


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What was asked for; None where nothing was."""

    out: Path | None
    data: Path | None
    arch: str | None
    recipe: str | None
    changes: dict[str, object]
    """Of the recipe."""
    placement: "Placement"
    """Of a whole network."""
    columns: bool
    """Whether two columns are asked for."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is to be trained, on what, and where."""

    run: Path
    data: Path
    architecture: "Architecture"
    recipe: "Recipe"
    columns: bool
    resume: "Resume"
    is_over: bool = False
    """Whether the run that is resumed has had all its epochs."""


def _check(task: _Task, num_classes: int) -> None:
    from alexnet_deploy.train.run import check_place

    if not task.is_over:
        check_place(task.run, task.architecture.with_num_classes(num_classes), task.recipe)


def _task(wish: _Wish, *, resume: bool, auto_resume: bool, any_machine: bool) -> _Task:
    """Return the run that is to be continued, or a new one; raises what both do."""
    from alexnet_deploy.train.loop.checkpoint import CHECKPOINT

    if auto_resume and wish.out is not None:
        resume = (wish.out / CHECKPOINT).is_file()
    return _saved_task(wish, any_machine=any_machine) if resume else _new_task(wish, may_exist=auto_resume)


def _new_task(wish: _Wish, *, may_exist: bool) -> _Task:
    """Return what was asked for; raises UsageError where its directory is there already, or is not one to begin in."""
    from alexnet_deploy.core.model.family import architecture_by_name
    from alexnet_deploy.train.recipe import recipe_by_name, with_settings
    from alexnet_deploy.train.run import Resume, new_run_name
    from alexnet_deploy.train.runtime.two_columns import check_columns, second_device

    is_drawn = wish.data is None
    architecture = architecture_by_name(wish.arch or ("original" if wish.columns else "tiny" if is_drawn else "paper"))
    if wish.columns:
        # Now, and not after a look at a million images.
        check_columns(architecture, wish.placement.ranks.size)
        second_device(wish.placement.device)
    plan = with_settings(recipe_by_name(wish.recipe or ("drawn" if is_drawn else "folder")), wish.changes)
    check_new_place(wish.out)
    run = wish.out or RUNS / new_run_name(architecture)
    if os.path.lexists(run):
        _check_unbegun(run, may_exist=may_exist)
    if wish.data is not None:
        check_exists(wish.data, "file or folder")
    return _Task(
        run=run,
        data=wish.data or _drawn_images(),
        architecture=architecture,
        recipe=plan,
        columns=wish.columns,
        resume=Resume.UNBEGUN if may_exist else Resume.NO,
    )


def _check_unbegun(run: Path, *, may_exist: bool) -> None:
    from alexnet_deploy.train.loop.run_directory import refuse_foreign

    if not run.is_dir():
        kind = "a link that leads nowhere" if not run.exists() else "a file"
        raise UsageError(f"{run}: is {kind}, not a directory; choose another --out")
    if not may_exist:
        raise UsageError(f"{run}: exists already; choose another --out, or --resume it")
    refuse_foreign(run)


def _saved_task(wish: _Wish, *, any_machine: bool) -> _Task:
    """Return what a run's checkpoint is of, and say where it stands; raises UsageError where another was asked for."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.model.family import architecture_by_name
    from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, RunIdentity, check_same, load_checkpoint
    from alexnet_deploy.train.recipe import recipe_by_name, with_settings
    from alexnet_deploy.train.run import Resume

    run = find_run(wish.out)
    saved = load_checkpoint(run / CHECKPOINT)
    architecture = architecture_by_name(wish.arch) if wish.arch else saved.architecture
    plan = with_settings(recipe_by_name(wish.recipe) if wish.recipe else saved.recipe, wish.changes)
    wanted = RunIdentity(
        architecture=architecture.with_num_classes(saved.architecture.num_classes),
        recipe=plan,
        # The images, which may take long to read, are compared later.
        data_sha256=saved.data_sha256,
        # Where it is not asked for, it goes on as it was begun.
        columns=wish.columns or saved.columns,
        machine=wish.placement.machine(),
    )
    check_same(run / CHECKPOINT, saved.identity, wanted, any_machine=any_machine)
    say(_standing(run, saved))
    return _Task(
        run=run,
        data=wish.data or Path(saved.data),
        architecture=architecture,
        recipe=plan,
        columns=saved.columns,
        resume=Resume.ANY_MACHINE if any_machine else Resume.SAME_MACHINE,
        is_over=saved.position.epoch > saved.recipe.epochs,
    )


def _changes(settings: dict[str, object], **options: float | None) -> dict[str, object]:
    """Return what is to be changed in the recipe; raises UsageError where an option and a --set name the same field."""
    changes = {name: value for name, value in options.items() if value is not None}
    for name in changes.keys() & settings.keys():
        raise UsageError(f"--set {name}={settings[name]}: has an option of its own, which is given too")
    return changes | settings


def _standing(run: Path, saved: "Checkpoint") -> str:
    from alexnet_deploy.train.loop.record import is_over

    position = saved.position
    if is_over(saved.recipe, position):
        return f"{run}: training has ended, after {counted(len(position.epochs), 'epoch')}"
    return f"{run}: going on in epoch {position.epoch} of {saved.recipe.epochs}, after step {position.step}"


def _announce(found: "Survey", task: _Task, device: str, processes: int) -> None:
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.inspection.describe import describe_excluded, describe_source, describe_suspicions

    for line in (
        *describe_source(found.folder),
        *describe_excluded(found.excluded),
        *describe_suspicions(found, is_balanced=task.recipe.class_weights == "balanced"),
    ):
        say(line)
    plan = task.recipe
    together = f", {processes} processes" if processes > 1 else ", in two columns" if task.columns else ""
    say(f"training {task.architecture.name} on {device}, recipe {plan.name}, {counted(plan.epochs, 'epoch')}{together}")
    if plan.compile and (device == "cpu" or task.columns):
        say("the recipe's compile is for one CUDA device, and does nothing here")


def _conclude(report: "RunReport", *, seconds: float) -> None:
    from alexnet_deploy.cli.terminal import say

    path, record, total = report.loaded.path, report.loaded.weights.training, report.num_images
    assert record is not None
    part = f" of {record.num_validation:,}, evenly spread," if total < record.num_validation else ""
    say(
        f"{report.ten.top1:.1%} of {counted(total, 'validation image')}{part} right by ten views, "
        f"{report.center.top1:.1%} by the centre view, after epoch {record.best_epoch} of {len(record.epochs)}; "
        f"{seconds:.0f} s in all"
    )
    say(f"what was learnt: {report.path}")
    logs = [str(path.parent / name) for name in (METRICS, CSV, TENSORBOARD) if (path.parent / name).exists()]
    say(f"metrics of each epoch: {', '.join(logs)}")
    say("next: alexnet-deploy export" + ("" if path.parent.parent == RUNS else f" {shlex.quote(str(path))}"))


def _drawn_images() -> Path:
    """Return the folder of drawn images, drawing them first where they are not there yet."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_folder

    if DRAWN.exists():
        say(f"no DATA given: taking the images in {DRAWN}/")
    else:
        say(f"no DATA given: drawing images of {len(DRAWN_CLASSES)} things into {DRAWN}/")
        draw_folder(DRAWN)
    return DRAWN
