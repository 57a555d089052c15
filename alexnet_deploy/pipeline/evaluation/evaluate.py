"""Evaluation of bundles on labelled images: every bundle on every engine, in one table."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.bundle.vocabulary import PLAN_BACKENDS
from alexnet_deploy.core.errors import (
    BackendError,
    BundleError,
    DataError,
    ImageError,
    ParityError,
    UsageError,
    WrongAnswerError,
)
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.engines.engine import Device, Engine, open_engine
from alexnet_deploy.engines.registry import Backend
from alexnet_deploy.engines.tensorrt.plan import backends_here
from alexnet_deploy.pipeline.bench import run_times_ms
from alexnet_deploy.pipeline.evaluation.scores import TOP, Answers, Score, score_of
from alexnet_deploy.pipeline.evaluation.truth import LabelledInputs, find_labelled_inputs, match_classes
from alexnet_deploy.pipeline.loadgen.early_stopping import percentile_bound
from alexnet_deploy.predict.stream import Classifier

OnProgress = Callable[[int, int], None]
"""Callback for the number of finished images and the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """Options of an evaluation."""

    backends: tuple[Backend, ...] | None = None
    """Backends to run each bundle on; None for all that are installed and support the device."""
    device: Device | Literal["auto"] = "auto"
    threads: int | None = None
    """CPU threads for an engine; None for the backend's choice."""
    batch_size: int | None = None
    """Images per batch; None for the engine's choice."""
    subset: tuple[str, ...] | None = None
    """Labels that are predicted and evaluated; None for all."""
    may_retry: bool = False
    """Whether a row whose engine fails is tried again, each time with half the batch."""
    seconds: float = 2.0
    """Duration of the measurement of latency."""


class EvaluationRow(Struct, frozen=True, kw_only=True):
    """One bundle on one engine."""

    bundle: str
    bundle_sha256: str
    precision: str
    views: str
    backend: str
    version: str
    """Version of the backend's library; empty if no engine was opened."""
    device: str
    arithmetic: str
    num_parameters: int
    num_labels: int
    """Classes that the bundle knows."""
    size_bytes: int
    """Size of the graph, or of the plan for a backend that runs plans."""
    status: Literal["ok", "failed"]
    reason: str
    """Why it failed, or what was retried; empty if nothing went wrong."""
    score: Score | None = None
    """None if the engine failed."""
    latency_p50_ms: float | None = None
    """Median latency of one image in memory, all threads on it."""
    latency_p99_ms: float | None = None
    """Upper estimate of the 99th percentile with 99 % confidence; None if there are too few runs."""
    num_timed_runs: int = 0
    images_per_second: float | None = None
    """From files to predictions, decoding included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAnswers:
    """The answers behind a row."""

    row: EvaluationRow
    bundle: Bundle
    truths: np.ndarray
    """int32 (N,): true classes, indices into the labels."""
    answers: Answers | None
    """None if the engine failed."""
    inputs: tuple[Input, ...]


class Evaluation(Struct, frozen=True, kw_only=True):
    """All rows, with the machine and the images that they were measured on."""

    data: str
    num_images: int
    num_classes: int
    """Classes in the data set."""
    processor: str
    rows: tuple[EvaluationRow, ...]


def evaluate(
    bundles: Sequence[Bundle],
    data: Path,
    request: EvaluationRequest,
    *,
    on_row: Callable[[RowAnswers], None] = lambda answers: None,
    say: Say = say_nothing,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Run every bundle on every backend over the labelled images in `data`; `on_row` gets each row with its answers.

    A backend that cannot run a bundle gives a row that says why. Raises UsageError for a bundle of features and
    for labels of the subset that a bundle does not have, DataError for data without labelled images, for classes that a
    bundle does not have, and where no image can be read.
    """
    for bundle in bundles:
        bundle.refuse_features("evaluate")
    found = find_labelled_inputs(data, bundles[0].labels)
    say(f"{data}: {counted(len(found.inputs), 'image')}, {counted(len(found.class_names), 'class', 'classes')}")
    first: RowAnswers | None = None
    rows: list[EvaluationRow] = []
    num_images = 0
    for bundle in bundles:
        task = _task_for(bundle, found, request, say)
        num_images = len(task.inputs)
        for backend in _backends(bundle, request):
            say(f"evaluating {bundle.path} on {backend}")
            answered = _run(task, backend, request, on_progress)
            if answered.answers is not None:
                first = first or answered
                assert first.answers is not None
                score = score_of(answered.answers, answered.truths, first.answers, first.truths)
                answered = replace(answered, row=msgspec.structs.replace(answered.row, score=score))
            rows.append(answered.row)
            on_row(answered)
    return Evaluation(
        data=str(data),
        num_images=num_images,
        num_classes=len(found.class_names),
        processor=processor(),
        rows=tuple(rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A bundle with the images that it is evaluated on."""

    bundle: Bundle
    inputs: tuple[Input, ...]
    truths: np.ndarray
    subset: tuple[int, ...] | None


def _task_for(bundle: Bundle, found: LabelledInputs, request: EvaluationRequest, say: Say) -> _Task:
    match = match_classes(found.class_names, bundle.labels, str(found.place))
    if match.remark:
        say(f"{bundle.path}: {match.remark}")
    truths = np.array(match.indices, dtype=np.int32)[found.classes]
    if request.subset is None:
        return _Task(bundle=bundle, inputs=found.inputs, truths=truths, subset=None)
    subset = match_classes(request.subset, bundle.labels, "--labels-subset").indices
    if len(set(subset)) < 2:
        raise UsageError("a subset needs two or more labels: among one label every prediction is right")
    is_kept = np.isin(truths, subset)
    inputs = tuple(item for item, kept in zip(found.inputs, is_kept, strict=True) if kept)
    if not inputs:
        raise UsageError(f"{found.place}: no image has a label of the subset")
    say(f"{counted(len(inputs), 'image')} with {counted(len(subset), 'label')} of the subset")
    return _Task(bundle=bundle, inputs=inputs, truths=truths[is_kept], subset=subset)


def _backends(bundle: Bundle, request: EvaluationRequest) -> tuple[Backend, ...]:
    return request.backends or backends_here(bundle, request.device)


def _run(task: _Task, backend: Backend, request: EvaluationRequest, on_progress: OnProgress) -> RowAnswers:
    """Measure one engine; a failure is a row, too."""
    manifest = task.bundle.manifest
    row = EvaluationRow(
        bundle=str(task.bundle.path),
        bundle_sha256=task.bundle.sha256,
        precision=manifest.precision,
        views=manifest.views.name,
        backend=backend,
        version="",
        device="",
        arithmetic="",
        num_parameters=manifest.architecture.num_parameters,
        num_labels=manifest.architecture.num_classes,
        size_bytes=_size_of(task.bundle, backend),
        status="failed",
        reason="",
    )
    answers: Answers | None = None
    try:
        row, answers = _measure(task, backend, request, row, on_progress)
    except (BackendError, BundleError, ParityError) as error:
        row = msgspec.structs.replace(row, reason=str(error))
    return RowAnswers(row=row, bundle=task.bundle, truths=task.truths, answers=answers, inputs=task.inputs)


def _measure(
    task: _Task, backend: Backend, request: EvaluationRequest, row: EvaluationRow, on_progress: OnProgress
) -> tuple[EvaluationRow, Answers]:
    opener = partial(open_engine, task.bundle, backend, request.device, request.threads)
    with opener("latency") as engine:
        image = _first_readable(Classifier(bundle=task.bundle, engine=engine), task)
        times_ms = run_times_ms(partial(engine.run, image[None]), request.seconds)
    with opener("throughput") as engine:
        info = engine.info
        answers, rate, retries = _answers_with_retries(task, engine, request, on_progress)
    measured = msgspec.structs.replace(
        row,
        version=info.version,
        device=info.device,
        arithmetic=info.arithmetic,
        status="ok",
        reason=retries,
        latency_p50_ms=float(np.median(times_ms)),
        latency_p99_ms=percentile_bound(times_ms, 0.99),
        num_timed_runs=len(times_ms),
        images_per_second=rate,
    )
    return measured, answers


def _first_readable(classifier: Classifier, task: _Task) -> np.ndarray:
    for item in task.inputs:
        try:
            return classifier.decode(item)
        except ImageError:
            continue
    raise DataError(f"none of the {counted(len(task.inputs), 'image')} can be read")


def _answers_with_retries(
    task: _Task, engine: Engine, request: EvaluationRequest, on_progress: OnProgress
) -> tuple[Answers, float, str]:
    """Return the answers, the throughput in images/s, and what was retried, in words.

    A wrong answer is never retried: a smaller batch would not make the engine right.
    """
    batch_size = request.batch_size or engine.info.batch_size
    failures: list[str] = []
    while True:
        try:
            answers, rate = _answers(task, engine, batch_size, on_progress)
        except WrongAnswerError:
            raise
        except BackendError as error:
            if not request.may_retry or batch_size == 1:
                raise
            failures.append(f"batch {batch_size} failed: {error}")
            batch_size //= 2
        else:
            words = "; ".join((*failures, f"batch {batch_size} succeeded")) if failures else ""
            return answers, rate, words


def _answers(task: _Task, engine: Engine, batch_size: int, on_progress: OnProgress) -> tuple[Answers, float]:
    classifier = Classifier(bundle=task.bundle, engine=engine, topk=TOP, subset=task.subset)
    num_images = len(task.inputs)
    num_guesses = min(TOP, len(task.subset or task.bundle.labels))
    guesses = np.full((num_images, num_guesses), -1, dtype=np.int32)
    probabilities = np.full((num_images, num_guesses), np.nan, dtype=np.float32)
    errors = {}
    started = time.perf_counter()
    with closing(classifier.stream(task.inputs, batch_size)) as predictions:
        for place, prediction in enumerate(predictions):
            if prediction.error is not None:
                errors[place] = (prediction.error, prediction.message)
            else:
                guesses[place] = [guess.index for guess in prediction.top]
                probabilities[place] = [guess.probability for guess in prediction.top]
            on_progress(place + 1, num_images)
    elapsed = time.perf_counter() - started
    return Answers(guesses=guesses, probabilities=probabilities, errors=errors), num_images / elapsed


def _size_of(bundle: Bundle, backend: Backend) -> int:
    manifest = bundle.manifest
    files = [plan.file for plan in manifest.plans if plan.backend == backend] if backend in PLAN_BACKENDS else [GRAPH]
    return sum(manifest.files[name].bytes for name in files)


def short_names(bundles: Sequence[str]) -> list[str]:
    """Return the name of each bundle, or its whole path where two different ones have the same name."""
    names = [Path(path).name for path in bundles]
    are_distinct = len(set(names)) == len(set(bundles))
    return names if are_distinct else list(bundles)
