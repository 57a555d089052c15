"""What a report says of a training: its curves, and who is taken for whom."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.model.weights import TrainingRecord
from alexnet_deploy.report.curves import TrainingCurves, training_curves

_MAX_HEATMAP_CLASSES = 30
_NUM_WORST = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPart:
    """Everything of the sections on training."""

    record: TrainingRecord
    """What the weights say of it."""
    curves: TrainingCurves | None
    """None before the first epoch's end."""
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
class ClassScore:
    """How well one class is told from the others, by the first guess."""

    label: str
    """Its name."""
    accuracy: float | None
    """Share of its validation images that are guessed right; None where it has none."""
    f1: float | None
    """Harmonic mean of that share and of the share of right ones among the guesses of this class.

    None where the class is neither on an image nor guessed.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Who was taken for whom."""

    scores: tuple["ClassScore", ...]
    """Of each class, in the order of the labels."""
    worst: tuple["ClassScore", ...]
    """The classes that are told apart worst."""
    macro_f1: float | None
    """Mean F1 over the classes, each counting the same; None where a class has none."""
    pairs: tuple[tuple[str, str, int, float], ...]
    """Truth, guess, images, share of the truth's images; the most frequent first."""
    num_right: int
    """By the first guess."""
    num_images: int
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
    guessed = counts.sum(axis=0)
    known = zip(labels, right.tolist(), totals.tolist(), guessed.tolist(), strict=True)
    scores = tuple(
        ClassScore(
            label=label,
            accuracy=hits / total if total else None,
            # 2 / (1 / precision + 1 / recall), also where there is no guess to have a precision.
            f1=2 * hits / (total + guesses) if total + guesses else None,
        )
        for label, hits, total, guesses in known
    )
    known_f1 = [score.f1 for score in scores if score.f1 is not None]
    return Confusion(
        scores=scores,
        worst=tuple(
            sorted(scores, key=lambda score: math.inf if score.accuracy is None else score.accuracy)[:_NUM_WORST]
        ),
        macro_f1=sum(known_f1) / num_classes if len(known_f1) == num_classes else None,
        pairs=tuple((labels[i], labels[j], int(wrong[i, j]), float(wrong[i, j] / totals[i])) for i, j in confused),
        num_right=int(right.sum()),
        num_images=int(totals.sum()),
    )
