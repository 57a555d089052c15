"""The training sections of a report: learning curves and confusion matrix."""

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
    """The contents of the training sections."""

    record: TrainingRecord
    """The training record of the weights."""
    curves: TrainingCurves | None
    """None if no epoch was finished."""
    confusion: "Confusion | None"
    """None without a confusion matrix."""


def training_part(training: TrainingRecord, labels: Sequence[str]) -> TrainingPart:
    """Return the contents of the training sections; `labels` are the K class names."""
    return TrainingPart(
        record=training,
        curves=training_curves(training, len(labels)) if training.epochs else None,
        confusion=confusion_of(training.confusion, labels),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Recall and F1 of one class, by the top-1 predictions."""

    label: str
    """Its name."""
    accuracy: float | None
    """Recall: share of its images that are predicted correctly; None if it has none."""
    f1: float | None
    """Harmonic mean of recall and precision; None if the class has neither an image nor a prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A confusion matrix with its summary."""

    counts: tuple[tuple[int, ...], ...]
    """Number of images for each true class, a row, and each top-1 prediction, a column."""
    scores: tuple["ClassScore", ...]
    """The score of each class, in the order of the labels."""
    worst: tuple["ClassScore", ...]
    """The classes with the lowest recall."""
    macro_f1: float | None
    """Unweighted mean F1 over the classes; None if a class has no F1."""
    pairs: tuple[tuple[str, str, int, float], ...]
    """True label, predicted label, images, share of the true class's images; most frequent first."""
    num_right: int
    """Number of correct top-1 predictions."""
    num_images: int
    """Number of images."""

    @property
    def is_heatmap(self) -> bool:
        """Whether the whole matrix is drawn, or only its worst classes and pairs are listed."""
        return len(self.counts) <= _MAX_HEATMAP_CLASSES


def confusion_of(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Confusion | None:
    """Return the matrix with its summary; None if training ended before one was recorded."""
    num_classes = len(labels)
    if [len(row) for row in matrix] != num_classes * [num_classes]:
        return None
    counts = np.array(matrix, dtype=np.int64)
    totals, right = counts.sum(axis=1), counts.diagonal()
    wrong = counts - np.diag(right)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_WORST]
    confused = [divmod(int(place), num_classes) for place in order if wrong.flat[place]]
    num_predicted = counts.sum(axis=0)
    known = zip(labels, right.tolist(), totals.tolist(), num_predicted.tolist(), strict=True)
    scores = tuple(
        ClassScore(
            label=label,
            accuracy=hits / total if total else None,
            # 2 / (1 / precision + 1 / recall), defined even without a prediction of this class.
            f1=2 * hits / (total + predictions) if total + predictions else None,
        )
        for label, hits, total, predictions in known
    )
    known_f1 = [score.f1 for score in scores if score.f1 is not None]
    return Confusion(
        counts=tuple(tuple(row) for row in counts.tolist()),
        scores=scores,
        worst=tuple(
            sorted(scores, key=lambda score: math.inf if score.accuracy is None else score.accuracy)[:_NUM_WORST]
        ),
        macro_f1=sum(known_f1) / num_classes if len(known_f1) == num_classes else None,
        pairs=tuple((labels[i], labels[j], int(wrong[i, j]), float(wrong[i, j] / totals[i])) for i, j in confused),
        num_right=int(right.sum()),
        num_images=int(totals.sum()),
    )
