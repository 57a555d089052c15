"""What a report says of a training: its curves, and who is taken for whom."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.weights import TrainingRecord
from alexnet_deploy.plots import training_curves

_MAX_HEATMAP_CLASSES = 30
_NUM_WORST = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPart:
    """Everything of the sections on training."""

    record: TrainingRecord
    """What the weights say of it."""
    curves: tuple[str, str, str] | None
    """Loss, validation error and learning rate over epochs, each an SVG element; None before the first epoch's end."""
    confusion: "Confusion | None"
    """None where there is no matrix."""
    is_heatmap: bool
    """Whether the matrix is drawn cell by cell, or told by its worst."""


def training_part(training: TrainingRecord, labels: Sequence[str]) -> TrainingPart:
    """Return what is shown of a training; `labels` are the K classes' names."""
    return TrainingPart(
        record=training,
        curves=training_curves(training, len(labels)) if training.epochs else None,
        confusion=_confusion(training.confusion, labels),
        is_heatmap=len(labels) <= _MAX_HEATMAP_CLASSES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Who was taken for whom."""

    accuracies: tuple[tuple[str, float | None], ...]
    """Each class with its share of right guesses; None where it has no validation picture."""
    worst: tuple[tuple[str, float | None], ...]
    """The classes that are told apart worst."""
    pairs: tuple[tuple[str, str, int, float], ...]
    """Truth, guess, pictures, share of the truth's pictures; the most frequent first."""
    num_right: int
    """By the first guess."""
    num_pictures: int
    """All of them."""


def _confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Confusion | None:
    """Return what the matrix says; None where training ended before there was one."""
    num_classes = len(labels)
    if [len(row) for row in matrix] != num_classes * [num_classes]:
        return None
    counts = np.array(matrix, dtype=np.int64)
    totals, right = counts.sum(axis=1), counts.diagonal()
    wrong = counts - np.diag(right)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_WORST]
    confused = [divmod(int(place), num_classes) for place in order if wrong.flat[place]]
    known = zip(labels, right.tolist(), totals.tolist(), strict=True)
    accuracies = tuple((label, hits / total if total else None) for label, hits, total in known)
    return Confusion(
        accuracies=accuracies,
        worst=tuple(sorted(accuracies, key=lambda pair: math.inf if pair[1] is None else pair[1])[:_NUM_WORST]),
        pairs=tuple((labels[i], labels[j], int(wrong[i, j]), float(wrong[i, j] / totals[i])) for i, j in confused),
        num_right=int(right.sum()),
        num_pictures=int(totals.sum()),
    )
