"""`alexnet-deploy train`."""

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli.training_task import Task, Wish, check_task, task_of
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.run_files import CSV, METRICS, TENSORBOARD, LogKind
from alexnet_deploy.core.names import RUNS, note_latest
from alexnet_deploy.core.process.say import counted, say_nothing

if TYPE_CHECKING:
    from alexnet_deploy.core.model.architecture import Architecture
    from alexnet_deploy.pipeline.pages.run_report import RunReport
    from alexnet_deploy.train.data.scan import Survey
    from alexnet_deploy.train.runtime.placement import Placement
    from alexnet_deploy.train.start import Start


DataArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Folder with train/CLASS/ and val/CLASS/, or CLASS/; archives of ILSVRC-2012 or CIFAR-10; or a packed "
        "set. Default: drawn images."
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        help="caffe, caffenet, original, paper, single_tower, tiny or torchvision. A name that ends in .toml is a "
        "file with a table of layers; see `inspect --toml`. Default: paper, or tiny for drawn images."
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Start from trained weights: a run, a weights file, or a file that `import` reads. Architecture and "
        "preprocessing are those of FILE.",
    ),
]
FreezeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYERS",
        help="With --from: layers that training does not change, for example conv1..conv5 or conv1,conv2.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="drawn, fast, fine-tune, folder, original, paper, two-class, or a .toml file; see `alexnet-deploy "
        "recipes`. Default: folder, fine-tune with --from, or drawn for drawn images."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the recipe, for example --set patience=3; can be repeated. `alexnet-deploy recipes "
        "folder` explains the fields.",
    ),
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Number of epochs. Default: the recipe's.")]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Images per step. Default: the recipe's.")]
LrOption = Annotated[float | None, typer.Option(help="Peak learning rate. Default: the recipe's.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of all random numbers. Default: the recipe's.")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")]
ColumnsOption = Annotated[
    bool,
    typer.Option("--columns", help="Train on two GPUs as in the paper: each holds one column of `original`."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that decode images that are not packed. Default: one per CPU, at most 8."),
]
OutOption = Annotated[Path | None, typer.Option(help="New directory for the run. Default: runs/ARCH-TIME.")]
LogOption = Annotated[
    list[LogKind] | None,
    typer.Option(
        help="Also write metrics.csv or TensorBoard event files, besides metrics.jsonl; can be repeated. A resumed "
        "run continues the logs it has."
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume", help="Resume the run in --out, or the newest in runs/; bit-identical to an uninterrupted run."
    ),
]
AutoResumeOption = Annotated[
    bool,
    typer.Option(
        "--auto-resume",
        help="Resume the run in --out if it has a checkpoint, else start it there: one command for a scheduler "
        "(Slurm, Kubernetes) that restarts its jobs.",
    ),
]
AnyMachineOption = Annotated[
    bool,
    typer.Option("--any-machine", help="Also resume with another thread count, torch or device: not bit-identical."),
]


def train(
    data: DataArgument = None,
    from_: FromOption = None,
    freeze: FreezeOption = None,
    arch: ArchOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    columns: ColumnsOption = False,
    workers: WorkersOption = None,
    out: OutOption = None,
    log: LogOption = None,
    resume: ResumeOption = False,
    auto_resume: AutoResumeOption = False,
    any_machine: AnyMachineOption = False,
) -> None:
    """Train on a folder of images, or on drawn images."""
    from alexnet_deploy.cli.terminal import show_path
    from alexnet_deploy.core.process.memory import keep_freed_memory
    from alexnet_deploy.train.loop.logs import check_log_packages
    from alexnet_deploy.train.recipe import parse_settings
    from alexnet_deploy.train.run import choose_device, look_over
    from alexnet_deploy.train.runtime.distributed import joined
    from alexnet_deploy.train.runtime.placement import placed

    if any_machine and not (resume or auto_resume):
        raise UsageError("--any-machine needs --resume or --auto-resume")
    if auto_resume and (resume or out is None):
        raise UsageError("--auto-resume needs --out and replaces --resume; pass --out, and remove --resume")
    check_log_packages(log or ())
    begun = time.perf_counter()
    changes = _changes(
        parse_settings(settings or []), epochs=epochs, batch_size=batch_size, learning_rate=lr, seed=seed
    )
    chosen = choose_device(device)
    with joined(chosen) as (ranks, own_device):
        # With several processes, the first draws images, names the run, scans the data and prints all messages.
        wish = Wish(
            out=out,
            data=data,
            start=from_,
            freeze=freeze,
            arch=arch,
            recipe=recipe,
            changes=changes,
            placement=placed(own_device, ranks=ranks, threads=workers),
            columns=columns,
        )
        task = ranks.broadcast(lambda: task_of(wish, resume=resume, auto_resume=auto_resume, any_machine=any_machine))
        found = ranks.broadcast(
            lambda: look_over(task.data, task.policy, on_found=lambda num_classes: check_task(task, num_classes))
        )
        network = task.network(found.folder.class_names)
        if chosen == "cpu":
            # Only after the scan, whose images may be large: their memory is freed by now.
            keep_freed_memory()
        if ranks.is_first:
            _announce(found, network, task, chosen, ranks.size)
        placement = placed(own_device, ranks=ranks, columns=task.columns, threads=workers)
        path = _train(found, network, task, placement, log or ())
    if ranks.is_first:
        # Printed first: the weights are complete even if the report fails.
        show_path(path)
        report = _report(path, found, own_device, workers)
        _conclude(report, seconds=time.perf_counter() - begun)


def _train(
    found: "Survey", network: "Architecture | Start", task: "Task", placement: "Placement", log: Sequence[LogKind]
) -> Path:
    """Return the weights file of a run that was trained to its end; the first process shows its progress."""
    from alexnet_deploy.cli.terminal import say, training_bar
    from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, load_checkpoint
    from alexnet_deploy.train.loop.record import Observer
    from alexnet_deploy.train.run import train as train_to_weights

    is_first = placement.ranks.is_first
    try:
        with training_bar() if is_first else nullcontext(lambda progress: None) as show:
            return train_to_weights(
                found,
                network,
                task.recipe,
                task.run,
                placement=placement,
                resume=task.resume,
                observer=Observer(say=say if is_first else say_nothing, on_progress=show, logs=log),
            )
    except (KeyboardInterrupt, SystemExit):
        if is_first and (task.run / CHECKPOINT).exists():
            # Without a finished epoch its weights are the initial ones: nothing to export by default.
            if load_checkpoint(task.run / CHECKPOINT).position.epochs:
                note_latest(task.run)
            say(f"interrupted; resume with `alexnet-deploy train --resume --out {shlex.quote(str(task.run))}`")
        raise


def _report(weights: Path, found: "Survey", device: str, threads: int | None) -> "RunReport":
    from alexnet_deploy.cli.terminal import images_bar, say
    from alexnet_deploy.pipeline.pages.run_report import report_run

    run = weights.parent
    try:
        note_latest(run)
        with images_bar("evaluating with ten views") as show_images:
            return report_run(weights, found, device=device, threads=threads, on_progress=show_images)
    except BaseException:
        say(
            f"the weights are complete; `alexnet-deploy train --resume --out {shlex.quote(str(run))}` writes their "
            "report"
        )
        raise


def _announce(found: "Survey", network: "Architecture | Start", task: Task, device: str, processes: int) -> None:
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.inspection.describe import describe_excluded, describe_source, describe_suspicions
    from alexnet_deploy.pipeline.pretrained.fine_tuning import start_lines
    from alexnet_deploy.train.start import Start

    for line in (
        *describe_source(found.folder),
        *describe_excluded(found.excluded),
        *describe_suspicions(found, is_balanced=task.recipe.class_weights == "balanced"),
    ):
        say(line)
    if isinstance(network, Start):
        for line in start_lines(network):
            say(line)
    if task.is_over:
        return
    plan = task.recipe
    together = f", {processes} processes" if processes > 1 else ", in two columns" if task.columns else ""
    say(f"training {task.architecture.name} on {device}, recipe {plan.name}, {counted(plan.epochs, 'epoch')}{together}")
    if plan.compile and (device == "cpu" or task.columns):
        say("ignored the recipe's compile: it needs a single CUDA device")


def _conclude(report: "RunReport", *, seconds: float) -> None:
    from alexnet_deploy.cli.terminal import say

    path, record, total = report.loaded.path, report.loaded.weights.training, report.num_images
    assert record is not None
    part = f" of {record.num_validation:,}, evenly spread," if total < record.num_validation else ""
    say(
        f"top-1 {report.ten.top1:.1%} with ten views, {report.center.top1:.1%} with the centre view, on "
        f"{counted(total, 'validation image')}{part} after epoch {record.best_epoch} of {len(record.epochs)}; "
        f"{seconds:.0f} s in total"
    )
    say(f"training report: {report.path}")
    logs = [str(path.parent / name) for name in (METRICS, CSV, TENSORBOARD) if (path.parent / name).exists()]
    say(f"metrics per epoch: {', '.join(logs)}")
    say("next: alexnet-deploy export" + ("" if path.parent.parent == RUNS else f" {shlex.quote(str(path))}"))


def _changes(settings: dict[str, object], **options: float | None) -> dict[str, object]:
    """Return the recipe fields to change; raises UsageError if an option and a --set name the same field."""
    changes = {name: value for name, value in options.items() if value is not None}
    for name in changes.keys() & settings.keys():
        raise UsageError(f"--set {name}={settings[name]}: the field is also set by its own option; remove one of them")
    return changes | settings
