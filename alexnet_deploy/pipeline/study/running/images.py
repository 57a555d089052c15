"""The images of a study: one packed set that all runs share, and the part of it that each run sees."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.pipeline.study.plan import PACK, Plan, RunPlan
from alexnet_deploy.train.data.batches import Batches, TrainingSet
from alexnet_deploy.train.data.loader import training_set
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.data.source import LabelledSource
from alexnet_deploy.train.loop.evaluation import spread_numbers
from alexnet_deploy.train.pack.format import Pack, is_packed, open_pack, survey_of
from alexnet_deploy.train.pack.writer import pack


class ChosenImages:
    """Some of the images of a set, by number."""

    def __init__(self, images: Batches, numbers: np.ndarray) -> None:
        """Use the images of these numbers, int64 (N,)."""
        self._images = images
        self._numbers = torch.from_numpy(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images of each tensor of numbers and their targets; see Batches."""
        return self._images.batches([self._numbers[batch] for batch in numbers])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImages:
    """The images of one run."""

    training: TrainingSet
    """For the training loop; with a target, its validation images are the training images."""
    tested: Batches
    """The images that results are measured on."""
    tested_numbers: np.ndarray
    """int64 (N,): their numbers in the packed set."""


def shared_pack(
    data: Path, out: Path, policy: ImagePolicy, *, say: Say, on_progress: Callable[[int, int], None]
) -> Pack:
    """Return the packed set of a study: `data` if it is one, else `data` packed into `out`, which may be resumed.

    Raises UsageError if `out` has the packed set of other images, or of images that were prepared in another way, and
    DataError as packing does.
    """
    if is_packed(data):
        return open_pack(data)
    source = find_images(data)
    if (out / PACK).exists():
        return _same_pack(out / PACK, source, policy)
    say(f"packing {counted(len(source.train) + len(source.validation), 'image')} once, for all runs")
    return pack(source, out / PACK, policy, say=say, on_progress=on_progress)


def _same_pack(path: Path, source: LabelledSource, policy: ImagePolicy) -> Pack:
    """Return the packed set of a study that was interrupted before it had a plan."""
    found = open_pack(path)
    packed = {Input(name=found.name_of(number)).text for number in range(found.header.num_images)}
    wanted = {Input(name=example.name).text for example in (*source.train, *source.validation)}
    root = Input(name=str(source.root.resolve())).text
    if found.header.source != root or packed | found.header.excluded.keys() != wanted:
        raise UsageError(
            f"{path}: holds other images than {source.root}; remove this directory, or choose another --out"
        )
    if found.header.image_policy != policy:
        raise UsageError(
            f"{path}: was packed with {found.header.image_policy}, but this study needs {policy}; remove this "
            "directory, or choose another --out"
        )
    return found


def pack_of(plan: Plan, out: Path) -> Pack:
    """Return the packed set of a study that has a plan; raises DataError if it was replaced."""
    data = Path(plan.asked.data)
    found = open_pack(data if is_packed(data) else out / PACK)
    if found.header.source_sha256 != plan.data_sha256:
        raise DataError(f"{found.path}: holds other images than when the study began; choose another --out")
    return found


def refuse_too_few(images: Pack, plan: Plan, runs: Iterable[RunPlan]) -> None:
    """Raise UsageError if there are too few images for one of the runs."""
    _split(images.header.num_validation, plan.study.held_out)
    for run in runs:
        _chosen(images, run)


def run_images(images: Pack, plan: Plan, run: RunPlan, policy: ImagePolicy, device: torch.device) -> RunImages:
    """Return the images of a run; raises UsageError if there are too few.

    Each run of a study has the same mean and covariance: those of all training images.
    """
    found = survey_of(images, policy)
    every = training_set(found, policy, device)
    num_train, num_validation = len(every.train), len(every.validation)
    chosen, counts = _chosen(images, run)
    tested, validated = _split(num_validation, plan.study.held_out)
    train = every.train if len(chosen) == num_train else ChosenImages(every.train, chosen)
    measures_train = plan.study.target is not None
    if measures_train:
        validation: Batches = train
    else:
        is_whole = len(validated) == num_validation
        validation = every.validation if is_whole else ChosenImages(every.validation, validated)
    is_whole = train is every.train and validation is every.validation
    facts = f"{every.sha256} {chosen.tolist()} {'train' if measures_train else validated.tolist()}"
    return RunImages(
        training=replace(
            every,
            train=train,
            validation=validation,
            class_counts=tuple(counts.tolist()),
            sha256=every.sha256 if is_whole else sha256(facts.encode()),
        ),
        tested=ChosenImages(every.validation, tested),
        tested_numbers=tested + num_train,
    )


def _chosen(images: Pack, run: RunPlan) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a run's training images, and how many there are of each class."""
    chosen = spread_numbers(images.header.num_train, run.num_train)
    counts = np.bincount(images.labels[chosen], minlength=len(images.header.labels))
    if not counts.all():
        empty = images.header.labels[int(np.flatnonzero(counts == 0)[0])]
        raise UsageError(f"{run.variant}: none of its {counted(len(chosen), 'training image')} is of class {empty}")
    return chosen, counts


def _split(num_validation: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the validation images that are tested, and of those that choose the best epoch."""
    if not held_out:
        return spread_numbers(num_validation), np.arange(num_validation)
    if held_out >= num_validation:
        raise UsageError(
            f"the study holds out {counted(held_out, 'image')}, but there are {num_validation:,} validation images; "
            "use more images, or a study with a smaller held_out"
        )
    tested = spread_numbers(num_validation, held_out)
    return tested, np.setdiff1d(np.arange(num_validation), tested)
