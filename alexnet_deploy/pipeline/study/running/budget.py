"""A budget of time: the speed is measured on a few steps, and the study shrunk until it fits.

Seeds go down to two first, then epochs down to a quarter, then training images down to a quarter; then epochs further.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import torch

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.model.network import cut, preprocess
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.pipeline.study.definition import BASE
from alexnet_deploy.pipeline.study.plan import Plan, RunPlan, every_run, with_epochs
from alexnet_deploy.pipeline.study.running.images import pack_of, run_images
from alexnet_deploy.pipeline.study.views import study_views
from alexnet_deploy.train.data.batches import in_batches
from alexnet_deploy.train.learner.learner import Learner
from alexnet_deploy.train.loop.record import training_preprocessing
from alexnet_deploy.train.run import image_policy_of
from alexnet_deploy.train.runtime.placement import placed

SecondsOf: TypeAlias = Callable[[Plan], float]
Change: TypeAlias = Callable[[Plan, float], Plan]

_STEPS = 3
_LEAST_SHARE = 0.25
_EXPORT_SECONDS = 30.0
"""For the proof of one graph of a small network; a large one takes longer."""

# Measured times vary, and checkpoints and scores take some as well.
_RESERVE = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds for one image."""

    train: float
    view: float
    """One view in evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of images that the time depends on, besides those of training."""

    num_validation: int
    num_tested: int


def within_budget(plan: Plan, out: Path, budget_seconds: float, *, jobs: int, say: Say) -> Plan:
    """Return the plan, shrunk until it fits the budget, with a sentence for each thing that was shrunk.

    Raises UsageError if even the smallest plan does not fit.
    """
    torch.set_num_threads(plan.threads)
    speeds = {}
    first_of = {run.variant: run for run in reversed(every_run(plan))}
    for name in plan.tables:
        speeds[name], sizes = _measured(plan, out, first_of[name])
        say(f"{name}: {1 / speeds[name].train:,.0f} images/s in training")
    shrunk = _shrunk(plan, budget_seconds, lambda candidate: _seconds(candidate, speeds, sizes, jobs))
    for line in shrunk.shrunk:
        say(f"to fit {words_of(budget_seconds)}: {line}")
    say(f"expected: {words_of(_seconds(shrunk, speeds, sizes, jobs))}")
    return shrunk


def words_of(seconds: float) -> str:
    """Return a duration as 40 s, 12 min or 1 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _shrunk(plan: Plan, budget: float, seconds_of: SecondsOf) -> Plan:
    lines: list[str] = []
    smallest = plan
    if seconds_of(smallest) > budget and len(plan.seeds) > 2:
        number = next((n for n in range(len(plan.seeds), 2, -1) if seconds_of(_seeds(plan, n)) <= budget), 2)
        smallest = _seeds(plan, number)
        lines.append(f"{counted(number, 'seed')} in place of {len(plan.seeds)}")
    share = _largest_share(smallest, budget, seconds_of, _epochs, _LEAST_SHARE)
    after_epochs = _epochs(smallest, share)
    images = _largest_share(after_epochs, budget, seconds_of, _images, _LEAST_SHARE)
    after_images = _images(after_epochs, images)
    further = _largest_share(after_images, budget, seconds_of, _epochs, 0.0)
    found = _epochs(after_images, further)
    if seconds_of(found) > budget:
        least = f"{counted(len(found.seeds), 'seed')}, 1 epoch, {counted(found.num_train, 'image')}"
        raise UsageError(
            f"--budget {words_of(budget)} is too short: the smallest plan ({least}) takes about "
            f"{words_of(seconds_of(found))}; pass a longer one, or a narrower --arch"
        )
    for name, recipe in plan.recipes.items():
        if found.recipes[name].epochs != recipe.epochs:
            lines.append(f"{name}: {counted(found.recipes[name].epochs, 'epoch')} in place of {recipe.epochs}")
    if found.num_train != plan.num_train:
        lines.append(f"{counted(found.num_train, 'training image')} in place of {plan.num_train:,}")
    return msgspec.structs.replace(found, shrunk=tuple(lines))


def _largest_share(plan: Plan, budget: float, seconds_of: SecondsOf, change: Change, least: float) -> float:
    """Return the largest share, in steps of 1/32 from 1 down to `least`, whose plan fits; `least` if none does."""
    for step in range(32, math.ceil(32 * least) - 1, -1):
        if seconds_of(change(plan, step / 32)) <= budget:
            return step / 32
    return least


def _seeds(plan: Plan, number: int) -> Plan:
    return msgspec.structs.replace(plan, seeds=plan.seeds[:number])


def _epochs(plan: Plan, share: float) -> Plan:
    if share == 1:
        return plan
    return msgspec.structs.replace(
        plan, recipes={name: with_epochs(recipe, share) for name, recipe in plan.recipes.items()}
    )


def _images(plan: Plan, share: float) -> Plan:
    return msgspec.structs.replace(plan, num_train=max(1, math.ceil(share * plan.num_train)))


def _seconds(plan: Plan, speeds: dict[str, Speed], sizes: Sizes, jobs: int) -> float:
    """Return the seconds of a study: the search first, then the runs that it decides."""
    parts: dict[bool, list[float]] = {True: [], False: []}
    for run in every_run(plan):
        parts[run.is_search].append(_run_seconds(plan, run, speeds[run.variant], sizes))
    return sum(_side_by_side(part, jobs) for part in parts.values())


def _run_seconds(plan: Plan, run: RunPlan, speed: Speed, sizes: Sizes) -> float:
    validated = sizes.num_validation if plan.study.target is None else run.num_train
    seconds = run.recipe.epochs * (run.num_train * speed.train + validated * speed.view)
    seconds += sizes.num_tested * len(_views(plan)) * speed.view
    num_exports = sum(variant.precision is not None for variant in plan.study.variants) if run.variant == BASE else 0
    return _RESERVE * seconds + num_exports * _EXPORT_SECONDS


def _side_by_side(seconds: Sequence[float], jobs: int) -> float:
    """Return the time of runs of these durations if each job takes the next run when it has finished one."""
    ends = [0.0] * jobs
    for each in seconds:
        ends[ends.index(min(ends))] += each
    return max(ends)


def _views(plan: Plan) -> set[object]:
    names = {"ten", plan.study.views} | {variant.views for variant in plan.study.variants if variant.views}
    size = plan.tables[BASE].input_size
    return {view for name in names for view in study_views(name, size)}


def _measured(plan: Plan, out: Path, run: RunPlan) -> tuple[Speed, Sizes]:
    """Return the speed of a run's network on its images, and the numbers of images of its evaluation."""
    place = placed(plan.asked.device)
    policy = image_policy_of(preprocessing_for(run.architecture.name), run.recipe)
    images = run_images(pack_of(plan, out), plan, run, policy, place.device)
    data, table = images.training, run.architecture
    used = training_preprocessing(table.name, run.recipe, data.mean, data.covariance)
    learner = Learner(table, run.recipe, used, data.covariance, place, class_counts=data.class_counts)
    numbers = torch.arange(_STEPS * run.recipe.batch_size) % len(data.train)
    started, num_trained, rate = 0.0, 0, run.recipe.learning_rate / 100
    for step, (pixels, targets) in enumerate(data.train.batches(in_batches(numbers, run.recipe.batch_size))):
        if step == 1:
            # The first step also allocates memory.
            started = time.perf_counter()
        learner.step(pixels, targets, epoch=1, step=step, rate=rate).item()
        num_trained += len(targets) if step else 0
    train = (time.perf_counter() - started) / num_trained
    (center,) = views_by_name("center", table.input_size)
    started = time.perf_counter()
    with torch.inference_mode():
        learner.logits(cut(preprocess(pixels.to(place.device), used), center, table.input_size)).cpu()
    view = (time.perf_counter() - started) / len(targets)
    num_validation = len(data.validation)
    return Speed(train=train, view=view), Sizes(num_validation=num_validation, num_tested=len(images.tested))
