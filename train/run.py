"""One training run from a folder of pictures to a run directory with weights in it."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from alexnet_deploy.core.architecture import Architecture
from alexnet_deploy.core.errors import BackendError, TrainingError, UsageError
from alexnet_deploy.core.family import PUBLISHED_PREPROCESSING
from alexnet_deploy.train.dataset import Survey, find_pictures, survey
from alexnet_deploy.train.loop import Progress, Trainer
from alexnet_deploy.train.packed import is_packed, open_pack, survey_of
from alexnet_deploy.train.recipe import Recipe


def look_over(data: Path, architecture: Architecture) -> Survey:
    """Find the labelled pictures in `data` and read each once, or open a packed set; raises DataError."""
    resize = PUBLISHED_PREPROCESSING[architecture.name].resize
    return survey_of(open_pack(data), resize) if is_packed(data) else survey(find_pictures(data), resize)


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
    """Train in a new directory `out`, and return the file of the best weights.

    An interruption (KeyboardInterrupt) leaves the weights of that moment there. Raises TrainingError where `out` exists
    or cannot be written, and what Trainer raises.
    """
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        trainer = Trainer(architecture, recipe, found, out, device=device, num_workers=num_workers)
        return trainer.run(on_progress)
    except OSError as error:
        raise TrainingError(f"{out}: could not be written: {error.strerror or error}") from error
    finally:
        if not any(out.iterdir()):
            out.rmdir()


def choose_device(device: str) -> str:
    """Return the device to train on: `auto` is cuda where torch finds one, else cpu; anything else is kept or refused.

    Raises UsageError for what is no device, BackendError for cuda where torch finds none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"{device!r} is no device to train on; there are auto, cpu, cuda")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise BackendError("cuda was asked for, and torch finds no CUDA device")
    return ("cuda" if has_cuda else "cpu") if device == "auto" else device


def new_run_name(architecture: Architecture) -> str:
    """Return a name for a run that starts now: the table's and the time."""
    return f"{architecture.name}-{time.strftime('%Y%m%d-%H%M%S')}"
