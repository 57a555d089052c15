"""The runs of a study: those that are not finished are trained and scored, one after another or side by side.

Side by side, they are given to processes (worker.py), which end with this one however this one ends.
"""

import math
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import torch

from alexnet_deploy.core.errors import DivergedError, TrainingError
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.pipeline.study.plan import Plan, RunPlan, measured_runs, search_runs
from alexnet_deploy.pipeline.study.running.images import pack_of, run_images
from alexnet_deploy.pipeline.study.running.scores import RunScore, diverged, load_score, save_score, score_run
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT
from alexnet_deploy.train.loop.record import Observer, Progress
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.run import Resume, image_policy_of, train
from alexnet_deploy.train.runtime.placement import placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """How the runs of a study are done here; the results do not depend on it."""

    jobs: int = 1
    """Runs side by side."""
    num_devices: int = 1
    """GPUs; each job has one of them."""
    say: Say
    on_progress: Callable[[RunPlan, Progress], None] = lambda run, progress: None
    """Called after each step of a run in this process."""
    pace: Pace | None = None
    """How often a run in this process writes a checkpoint."""
    lock: int | None = None
    """Descriptor of the study's lock, which the processes of runs hold too."""


def finish_all(out: Path, plan: Plan, runs: Sequence[RunPlan], here: Workplace) -> dict[str, RunScore]:
    """Train and score the runs that have no score yet; return all scores by the run's folder.

    Raises what training raises, and TrainingError where a process of a run fails.
    """
    scores = {run.folder: load_score(out, run) for run in runs}
    waiting = [run for run in runs if scores[run.folder] is None]
    if here.jobs == 1:
        for run in waiting:
            score = scores[run.folder] = finish(out, plan, run, here)
            report(run, score, here.say)
    elif waiting:
        _side_by_side(out, waiting, here)
        scores = {run.folder: load_score(out, run) for run in runs}
    found = {folder: score for folder, score in scores.items() if score is not None}
    assert len(found) == len(runs), "every run has a score or raised"
    return found


def finish(out: Path, plan: Plan, run: RunPlan, here: Workplace) -> RunScore:
    """Train a run from its beginning or its checkpoint, and score it; raises what training raises."""
    torch.set_num_threads(plan.threads)
    place = placed(plan.asked.device)
    policy = image_policy_of(preprocessing_for(run.architecture.name), run.recipe)
    images = run_images(pack_of(plan, out), plan, run, policy, place.device)
    directory = out / run.folder
    try:
        train(
            images.training,
            run.architecture,
            run.recipe,
            directory,
            placement=place,
            resume=Resume.SAME_MACHINE if (directory / CHECKPOINT).exists() else Resume.UNBEGUN,
            pace=here.pace,
            observer=Observer(
                say=lambda line: here.say(f"{run.folder}: {line}"),
                on_progress=lambda progress: here.on_progress(run, progress),
            ),
        )
    except DivergedError as error:
        if not run.is_search:
            raise DivergedError(f"{directory}: {error}") from error
        # A rate that is too high is a result of the search.
        return save_score(out, run, diverged(len(images.training.class_names)))
    return score_run(out, plan, run, images, device=plan.asked.device, say=here.say)


def best_values(plan: Plan, scores: dict[str, RunScore]) -> dict[str, float]:
    """Return the best value of the searched field for each variant, if the study has a search.

    Best is the fewest epochs to the target, then the lowest loss at the end, then the first value.
    """
    found: dict[str, float] = {}
    for values in plan.study.search.values():
        for name in plan.tables:
            of_variant = [run for run in search_runs(plan) if run.variant == name]
            ranked = [
                (epochs_to_target(plan, run, scores[run.folder]), scores[run.folder].last_loss, place)
                for place, run in enumerate(of_variant)
            ]
            found[name] = values[min(ranked)[2]]
    return found


def epochs_to_target(plan: Plan, run: RunPlan, score: RunScore) -> float:
    """Return the epochs until a run reached the target of its study, interpolated; infinite if it did not.

    Before the first epoch the error and the loss are those of random guessing.
    """
    target = plan.study.target
    assert target is not None
    num_classes = run.architecture.num_classes
    guessing = 1 - 1 / num_classes if target.of == "error" else math.log(num_classes)
    wanted = target.share if target.of == "error" else target.share * guessing
    values = [point.error if target.of == "error" else point.loss for point in score.curve]
    return crossing([guessing, *values], wanted)


def crossing(values: Sequence[float], wanted: float) -> float:
    """Return where values at 0, 1, 2, ... first fall to `wanted`, linear in between; infinite if they do not."""
    if values[0] <= wanted:
        return 0.0
    for place, (before, after) in enumerate(pairwise(values)):
        if after <= wanted:
            return place + (before - wanted) / (before - after)
    return float("inf")


def planned_run(out: Path, plan: Plan, folder: str) -> RunPlan:
    """Return the run of a plan in this folder; the runs that are compared need the scores of the search."""
    searches = {run.folder: run for run in search_runs(plan)}
    if folder in searches:
        return searches[folder]
    scores = {name: score for name, run in searches.items() if (score := load_score(out, run)) is not None}
    return next(run for run in measured_runs(plan, best_values(plan, scores)) if run.folder == folder)


def report(run: RunPlan, score: RunScore, say: Say) -> None:
    """Print the result of a run in one line."""
    if not score.curve:
        say(f"{run.folder}: diverged")
        return
    last = score.curve[-1]
    say(
        f"{run.folder}: {counted(score.num_epochs, 'epoch')}, loss {last.train_loss:.3f}; top-1 "
        f"{score.num_right['ten'] / score.num_images:.1%} with ten views, "
        f"{score.num_right['center'] / score.num_images:.1%} with the centre view"
    )


def _side_by_side(out: Path, runs: list[RunPlan], here: Workplace) -> None:
    """Give the runs to processes, each of which gets the next one when it has finished one."""
    waiting = list(reversed(runs))
    workers = [_start(out, here, job % here.num_devices) for job in range(min(here.jobs, len(runs)))]
    working = {worker: _give(worker, waiting.pop()) for worker in workers}
    try:
        while working:
            ready, _, _ = select.select([_answers(worker) for worker in working], [], [])
            for worker in [worker for worker in working if _answers(worker) in ready]:
                run = working.pop(worker)
                if not _answers(worker).readline():
                    raise TrainingError(
                        f"{out / run.folder}: its process ended with {worker.wait()}; its messages are above"
                    )
                if waiting:
                    working[worker] = _give(worker, waiting.pop())
    finally:
        for worker in workers:
            if worker in working:
                # It writes a checkpoint, then it ends.
                worker.terminate()
            else:
                _close(worker)
        for worker in workers:
            worker.wait()
            _close(worker)
            _answers(worker).close()


def _give(worker: subprocess.Popen[bytes], run: RunPlan) -> RunPlan:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):
        # If it has ended, its answers say so.
        worker.stdin.write(f"{run.folder}\n".encode())
        worker.stdin.flush()
    return run


def _answers(worker: subprocess.Popen[bytes]) -> IO[bytes]:
    assert worker.stdout is not None
    return worker.stdout


def _close(worker: subprocess.Popen[bytes]) -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):
        worker.stdin.close()


def _start(out: Path, here: Workplace, device: int) -> subprocess.Popen[bytes]:
    """Start a process for runs; it ends when its standard input does, which is when this process ends."""
    module = "alexnet_deploy.pipeline.study.running.worker"
    environment = dict(os.environ)
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device]
    return subprocess.Popen(
        [sys.executable, "-m", module, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        pass_fds=() if here.lock is None else (here.lock,),
    )
