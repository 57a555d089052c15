"""One training run from a folder of pictures to a run directory with weights in it."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from alexnet_deploy.core.architecture import Architecture
from alexnet_deploy.core.errors import TrainingError
from alexnet_deploy.core.family import PUBLISHED_PREPROCESSING
from alexnet_deploy.core.latest import set_latest
from alexnet_deploy.train.dataset import Survey, find_pictures, survey
from alexnet_deploy.train.loop import BEST, Progress, Trainer
from alexnet_deploy.train.recipe import Recipe


def look_over(data: Path, architecture: Architecture) -> Survey:
    """Find the labelled pictures below `data` and read each once; raises DataError."""
    return survey(find_pictures(data), PUBLISHED_PREPROCESSING[architecture.name].resize)


def train_on(
    found: Survey,
    architecture: Architecture,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    num_workers: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train in a new directory `out`, make it its folder's latest, and return the file of the best weights.

    An interruption (KeyboardInterrupt) leaves the weights of that moment there, and makes them the latest too. Raises
    TrainingError where `out` exists or cannot be written, and what Trainer raises.
    """
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        try:
            trainer = Trainer(architecture, recipe, found, out, device=device, num_workers=num_workers)
            return trainer.run(on_progress)
        finally:
            if (out / BEST).exists():
                set_latest(out)
            elif not any(out.iterdir()):
                out.rmdir()
    # Around both: a disk too full for the weights is too full for the name of the latest.
    except OSError as error:
        raise TrainingError(f"{out}: could not be written: {error.strerror or error}") from error


def choose_device(device: str) -> str:
    """Return the device to train on: `auto` is cuda where torch finds one, else cpu; anything else is kept."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def new_run_name(architecture: Architecture) -> str:
    """Return a name for a run that starts now: the table's and the time."""
    return f"{architecture.name}-{time.strftime('%Y%m%d-%H%M%S')}"
