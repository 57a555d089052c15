"""`alexnet-deploy train`."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.defaults import DRAWN, RUNS, note_latest


def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder with train/CLASS/ and val/CLASS/, or CLASS/; archives of ILSVRC-2012 or CIFAR-10; a packed "
            "set; drawn pictures unless given."
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="A member of the AlexNet family. Default: paper; for drawn pictures tiny."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="drawn, folder or paper. Default: folder; for drawn pictures drawn.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the pictures. Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures a step. Default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="First learning rate. Default: the recipe's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of everything that is random. Default: the recipe's.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode ahead; 0 decodes in this one.")] = 0,
    out: Annotated[Path | None, typer.Option(help="New directory for the run. Default: runs/ARCH-TIME.")] = None,
) -> None:
    """Train on a folder of pictures, or on drawn ones."""
    import msgspec

    from alexnet_deploy.core.family import architecture_by_name
    from alexnet_deploy.core.weights import load_weights
    from alexnet_deploy.terminal import say, training_bar
    from alexnet_deploy.train.recipe import recipe_by_name
    from alexnet_deploy.train.run import choose_device, look_over, new_run_name, train_on

    is_drawn = data is None
    architecture = architecture_by_name(arch or ("tiny" if is_drawn else "paper"))
    wanted = {"epochs": epochs, "batch_size": batch_size, "learning_rate": lr, "seed": seed}
    plan = msgspec.structs.replace(
        recipe_by_name(recipe or ("drawn" if is_drawn else "folder")),
        **{name: value for name, value in wanted.items() if value is not None},
    )
    chosen = choose_device(device)
    run = out or RUNS / new_run_name(architecture)
    if os.path.lexists(run):
        raise UsageError(f"{run}: exists already; choose another --out")
    begun = time.perf_counter()
    found = look_over(_drawn_pictures() if data is None else data, architecture)
    folder = found.folder
    say(
        f"{folder.root}: {len(folder.train):,} pictures to learn from, {len(folder.validation):,} to validate, "
        f"{len(folder.labels)} classes"
    )
    for name, code in found.excluded.items():
        say(f"left out, {code}: {name}")
    say(f"training {architecture.name} on {chosen}, recipe {plan.name}, {plan.epochs} epochs")
    try:
        with training_bar() as show:
            path = train_on(found, architecture, plan, run, device=chosen, num_workers=workers, on_progress=show)
    except KeyboardInterrupt:
        if (run / "last.safetensors").exists():
            note_latest(run)
            say(f"interrupted; the weights of this moment are in {run}/last.safetensors")
        raise
    note_latest(run)
    record = load_weights(path).weights.training
    assert record is not None
    best = record.epochs[record.best_epoch - 1]
    say(
        f"{best.validation_top1:.1%} of {record.num_validation} validation pictures right, centre view, after epoch "
        f"{best.epoch} of {plan.epochs}; {time.perf_counter() - begun:.0f} s in all"
    )
    typer.echo(path)
    say("next: alexnet-deploy export" + ("" if run.parent == RUNS else f" {path}"))


def _drawn_pictures() -> Path:
    """Return the folder of drawn pictures, drawing them first where they are not there yet."""
    from alexnet_deploy.core.drawing import DRAWN_CLASSES, draw_folder
    from alexnet_deploy.terminal import say

    if DRAWN.exists():
        say(f"no DATA given: taking the pictures in {DRAWN}/")
    else:
        say(f"no DATA given: drawing pictures of {len(DRAWN_CLASSES)} things into {DRAWN}/")
        draw_folder(DRAWN)
    return DRAWN
