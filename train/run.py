"""One training run: from labelled images to a run directory with weights."""

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import Enum, auto
from pathlib import Path

import torch

from alexnet_deploy.core.errors import BackendError, TrainingError, UsageError
from alexnet_deploy.core.fs.room import try_to_write
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.model.preprocessing import ImagePolicy, Preprocessing
from alexnet_deploy.train.data.batches import TrainingSet
from alexnet_deploy.train.data.loader import training_set
from alexnet_deploy.train.data.scan import Survey, find_images, survey
from alexnet_deploy.train.loop.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    RunIdentity,
    check_same,
    load_checkpoint,
    load_tensors,
)
from alexnet_deploy.train.loop.record import NOBODY, Observer
from alexnet_deploy.train.loop.run_directory import BEST, RunDirectory, holding
from alexnet_deploy.train.loop.trainer import Pace, Trainer
from alexnet_deploy.train.pack.format import is_packed, open_pack, survey_of
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.runtime.distributed import Ranks
from alexnet_deploy.train.runtime.placement import HERE, Placement
from alexnet_deploy.train.runtime.two_columns import check_columns
from alexnet_deploy.train.start import Start


def look_over(data: Path, policy: ImagePolicy, *, on_found: Callable[[int], None] = lambda num_classes: None) -> Survey:
    """Find the labelled images in `data` and read each of them once, or open a packed set; raises DataError.

    `on_found` is called with the number of classes before the images are read, which may take an hour.
    """
    if is_packed(data):
        found = survey_of(open_pack(data), policy)
        on_found(len(found.folder.class_names))
        return found
    source = find_images(data)
    on_found(len(source.class_names))
    return survey(source, policy)


def image_policy_of(preprocessing: Preprocessing, recipe: Recipe) -> ImagePolicy:
    """Return how images are resized, which the network's preprocessing says, and decoded, which the recipe says."""
    return ImagePolicy(resize=preprocessing.resize, decode=recipe.decode)


def check_place(out: Path, architecture: Architecture, recipe: Recipe) -> None:
    """Raise TrainingError if a run directory cannot be written or its disk is too small; writes nothing.

    `architecture` has as many classes as the images.
    """
    try:
        try_to_write(out)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be written: {error.strerror or error}") from error
    RunDirectory(path=out).check_room(architecture, recipe)


class Resume(Enum):
    """Whether a run is new or resumed from its checkpoint, and on which machine."""

    NO = auto()
    """New, in a new directory."""
    UNBEGUN = auto()
    """New, in a directory that may exist: empty, or with the files of a run that has no checkpoint."""
    SAME_MACHINE = auto()
    """Resumed on the same machine: bit-identical."""
    ANY_MACHINE = auto()
    """Resumed on any machine: not bit-identical."""


def train(
    data: Survey | TrainingSet,
    network: Architecture | Start,
    recipe: Recipe,
    out: Path,
    *,
    placement: Placement = HERE,
    resume: Resume = Resume.NO,
    pace: Pace | None = None,
    observer: Observer = NOBODY,
) -> Path:
    """Train in the directory `out`, from its beginning or from its checkpoint; return the path of the best weights.

    `network` is a table, whose layers the recipe initialises, or a Start: trained weights for these classes.
    An interruption (KeyboardInterrupt, or SystemExit after SIGTERM) leaves a checkpoint and weights there. On a CPU a
    resumed run ends with bit-identical weights to an uninterrupted one; it must be the same run, on the same machine
    unless any machine is allowed. Of several ranks only the first writes; all read the checkpoint.
    Raises TrainingError if `out` exists, cannot be written, or has no checkpoint to resume; UsageError if `out` may
    exist but has other files; UsageError or DataError if the saved run differs from this one, or a batch has fewer
    images than there are ranks; and whatever Trainer raises.
    """
    if isinstance(data, Survey):
        used = network.basis.preprocessing if isinstance(network, Start) else preprocessing_for(network.name)
        policy = image_policy_of(used, recipe)
        data = training_set(data, policy, placement.device, threads=placement.threads)
    num_classes, ranks = len(data.class_names), placement.ranks
    architecture = (network.architecture if isinstance(network, Start) else network).with_num_classes(num_classes)
    _check_batch(recipe, ranks)
    if placement.is_two_columns:
        check_columns(architecture, ranks.size)
    is_new, is_made = resume in (Resume.NO, Resume.UNBEGUN), False
    if not is_new:
        load_checkpoint(out / CHECKPOINT)
    elif ranks.is_first and not (resume is Resume.UNBEGUN and out.is_dir()):
        _make(out)
        is_made = True
    wanted = RunIdentity(
        architecture=architecture,
        recipe=recipe,
        data_sha256=data.sha256,
        columns=placement.is_two_columns,
        start=network.basis if isinstance(network, Start) else None,
        machine=placement.machine(),
    )
    held = holding(out, observer.say, observer.logs, begins=is_new)
    kept = held if ranks.is_first else nullcontext(RunDirectory(path=out))
    try:
        with kept as directory:
            subject = network if isinstance(network, Start) else architecture
            trainer = Trainer(subject, recipe, data, directory, placement=placement, pace=pace, observer=observer)
            if not is_new:
                # Read again: from here on the lock keeps other processes out.
                any_machine = resume is Resume.ANY_MACHINE
                saved = ranks.broadcast(lambda: _saved_run(out, wanted, any_machine=any_machine))
                best = directory.settle(saved.position) if ranks.is_first else None
                trainer.go_on_from(saved.position, load_tensors(out / CHECKPOINT, saved), best)
            trainer.run()
    except OSError as error:
        standing = RunDirectory(path=out).standing(error)
        raise TrainingError(f"{out}: could not be written: {error.strerror or error}; {standing}") from error
    finally:
        if is_made:
            with suppress(OSError):
                # Removes it only if it is empty.
                out.rmdir()
    return out / BEST


def _saved_run(out: Path, wanted: RunIdentity, *, any_machine: bool) -> Checkpoint:
    saved = load_checkpoint(out / CHECKPOINT)
    check_same(out / CHECKPOINT, saved.identity, wanted, any_machine=any_machine)
    return saved


def _check_batch(recipe: Recipe, ranks: Ranks) -> None:
    if recipe.batch_size < ranks.size:
        raise UsageError(
            f"batch size {recipe.batch_size} is too small for {ranks.size} processes; "
            f"use --batch-size {ranks.size} or more"
        )


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be created: {error.strerror}") from error


def choose_device(device: str) -> str:
    """Return the device to train on: `auto` is cuda if torch finds a CUDA device, else cpu.

    Raises UsageError for an unknown device, BackendError for cuda if torch finds no CUDA device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"{device!r} is not a training device; use auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise BackendError("no CUDA device found by torch; use --device cpu")
    return ("cuda" if has_cuda else "cpu") if device == "auto" else device


def new_run_name(architecture: Architecture) -> str:
    """Return a name for a new run: the architecture's name and the current time."""
    return f"{architecture.name}-{time.strftime('%Y%m%d-%H%M%S')}"
