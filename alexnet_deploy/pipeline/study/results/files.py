"""The files of a study's results: results.csv, curves.csv, study.json, and times.csv, which alone holds times.

All but times.csv are the same, byte by byte, however often the study was interrupted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from alexnet_deploy.core.csv_text import csv_line
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.pipeline.study.definition import Study, name_of
from alexnet_deploy.pipeline.study.plan import Plan, RunPlan
from alexnet_deploy.pipeline.study.results.summary import Row, StudyResult
from alexnet_deploy.pipeline.study.running.scores import RunScore

RESULTS, CURVES, RESULT, TIMES = "results.csv", "curves.csv", "study.json", "times.csv"

_RESULT_COLUMNS = (
    "variant",
    "seed",
    "searched",
    "epochs",
    "best_epoch",
    "train_images",
    "tested_images",
    "right_center",
    "right_ten",
    "value",
    "reached",
    "epochs_to_error",
    "images_to_error",
    "weights_sha256",
)
_CURVE_COLUMNS = ("variant", "seed", "epoch", "images", "learning_rate", "train_loss", "loss", "error")
_TIME_COLUMNS = ("variant", "seed", "seconds", "seconds_to_error", "images_per_second")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """The measured time of one run."""

    seconds: float
    """Of training with validation, over all parts of an interrupted run."""
    seconds_to_error: float | None
    """Until the study's error, as a share of `seconds`; None if it was not reached."""
    images_per_second: float
    """Training images, validation not counted."""


def write_files(out: Path, plan: Plan, result: StudyResult, rows: Sequence[Row]) -> dict[str, list[RunTime]]:
    """Write the files of the results; return the times of each trained variant, by seed. Raises OSError."""
    _write_csv(out / RESULTS, _RESULT_COLUMNS, (_result_cells(row, plan.study) for row in rows))
    trained = [row for row in rows if name_of(row.variant) == row.run.variant]
    _write_csv(out / CURVES, _CURVE_COLUMNS, (cells for row in trained for cells in _curve_cells(row.run, row.score)))
    times = [_time_of(out, row) for row in trained]
    cells = (
        (row.run.variant, row.seed, *("" if number is None else f"{number:.3f}" for number in _numbers(time)))
        for row, time in zip(trained, times, strict=True)
    )
    _write_csv(out / TIMES, _TIME_COLUMNS, cells)
    write_atomically(out / RESULT, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    by_variant: dict[str, list[RunTime]] = {}
    for row, time in zip(trained, times, strict=True):
        by_variant.setdefault(row.run.variant, []).append(time)
    return by_variant


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    write_atomically(path, "".join(map(csv_line, (columns, *rows))).encode())


def _result_cells(row: Row, study: Study) -> tuple[object, ...]:
    score, run = row.score, row.run
    return (
        name_of(row.variant),
        row.seed,
        next((getattr(run.recipe, field) for field in study.search), ""),
        score.num_epochs,
        score.best_epoch,
        run.num_train,
        score.num_images,
        score.num_right["center"],
        score.num_right["ten"],
        "" if row.value is None else row.value,
        "" if study.target is None else "no" if row.is_censored else "yes",
        "" if row.epochs_to_error is None else row.epochs_to_error,
        "" if row.epochs_to_error is None else row.epochs_to_error * run.num_train,
        score.weights_sha256,
    )


def _curve_cells(run: RunPlan, score: RunScore) -> Iterable[tuple[object, ...]]:
    for epoch, point in enumerate(score.curve, start=1):
        yield (
            run.variant,
            run.seed,
            epoch,
            epoch * run.num_train,
            point.learning_rate,
            point.train_loss,
            point.loss,
            point.error,
        )


def _time_of(out: Path, row: Row) -> RunTime:
    record = load_weights(out / row.run.folder / "weights.safetensors").weights.training
    assert record is not None
    share = None if row.epochs_to_error is None else row.epochs_to_error / len(record.epochs)
    num_images = len(record.epochs) * record.num_train
    return RunTime(
        seconds=record.seconds,
        seconds_to_error=None if share is None else share * record.seconds,
        images_per_second=num_images / sum(record.num_train / epoch.images_per_second for epoch in record.epochs),
    )


def _numbers(time: RunTime) -> tuple[float | None, ...]:
    return time.seconds, time.seconds_to_error, time.images_per_second
