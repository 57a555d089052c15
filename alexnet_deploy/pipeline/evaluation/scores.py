"""Scores of one engine on labelled images: accuracy with intervals, the paired difference, and calibration.

N images, of which some may be unreadable: these have no prediction and do not enter a score.
"""

from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from alexnet_deploy.core.bundle.accuracy import share_interval
from alexnet_deploy.core.confidence.reliability import CoveragePoint, Reliability, coverage_curve, reliability
from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.engines.proof.accuracy import paired_interval_points

TOP = 5
"""Number of classes kept for each image."""

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds of the confidence for which the accuracy of the accepted images is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Predictions of one engine for N images."""

    guesses: np.ndarray
    """int32 (N, T), T = min(TOP, K): classes by falling probability; -1 where an image could not be read."""
    probabilities: np.ndarray
    """float32 (N, T): their probabilities; NaN where an image could not be read."""
    errors: dict[int, tuple[ImageErrorCode, str]]
    """Why images could not be read, by the image's number, from 0."""

    @property
    def is_read(self) -> np.ndarray:
        """Bool (N,): whether an image could be read."""
        found: np.ndarray = self.guesses[:, 0] >= 0
        return found

    def hits(self, truths: np.ndarray) -> np.ndarray:
        """Return whether the first guess is the truth, int (N,), as bool (N,)."""
        found: np.ndarray = self.guesses[:, 0] == truths
        return found


class Score(Struct, frozen=True, kw_only=True):
    """Accuracy and calibration on the images that could be read; shares are 0..1."""

    num_images: int
    """Images that could be read."""
    num_unreadable: int
    """Images that could not."""
    top1: float
    top1_interval: tuple[float, float]
    """95 % confidence interval by Wilson's method."""
    top1_err: float
    """1 - top1."""
    top5: float
    top5_interval: tuple[float, float]
    top5_err: float
    difference_points: float
    """Top-1 minus that of the first row, in percentage points, on the images that both could read."""
    difference_interval_points: tuple[float, float]
    """95 % confidence interval of it, paired by image."""
    ece: float
    """Expected calibration error; see Reliability."""
    reliability: Reliability
    coverage: tuple[CoveragePoint, ...]
    """What remains at each of THRESHOLDS that accepts an image."""


def score_of(answers: Answers, truths: np.ndarray, first: Answers, first_truths: np.ndarray) -> Score:
    """Return the score of an engine for true classes, int (N,); `first` are the answers of the first row.

    Both engines' truths are given because the classes of two bundles may be numbered differently. At least one image
    must be readable.
    """
    is_read = answers.is_read
    hits = answers.hits(truths)[is_read]
    in_top5 = (answers.guesses == truths[:, None]).any(axis=1)[is_read]
    confidences = answers.probabilities[is_read, 0]
    num_images, num_right, num_right5 = len(hits), int(hits.sum()), int(in_top5.sum())
    points, interval = _difference(answers, truths, first, first_truths)
    found = reliability(confidences, hits)
    return Score(
        num_images=num_images,
        num_unreadable=len(truths) - num_images,
        top1=num_right / num_images,
        top1_interval=share_interval(num_right, num_images),
        top1_err=1 - num_right / num_images,
        top5=num_right5 / num_images,
        top5_interval=share_interval(num_right5, num_images),
        top5_err=1 - num_right5 / num_images,
        difference_points=points,
        difference_interval_points=interval,
        ece=found.expected_calibration_error,
        reliability=found,
        coverage=_at_thresholds(coverage_curve(confidences, hits)),
    )


def _difference(
    answers: Answers, truths: np.ndarray, first: Answers, first_truths: np.ndarray
) -> tuple[float, tuple[float, float]]:
    """Return the gain in top-1 over the first row in points, with its interval; zeros for the first row itself."""
    if answers is first:
        return 0.0, (0.0, 0.0)
    both = answers.is_read & first.is_read
    hits, first_hits = answers.hits(truths)[both], first.hits(first_truths)[both]
    num_won, num_lost, num_both = int((hits & ~first_hits).sum()), int((first_hits & ~hits).sum()), int(both.sum())
    if not num_both:
        return float("nan"), (float("nan"), float("nan"))
    return 100 * (num_won - num_lost) / num_both, paired_interval_points(num_won, num_lost, num_both)


def _at_thresholds(curve: tuple[CoveragePoint, ...]) -> tuple[CoveragePoint, ...]:
    """Return the point of each threshold that accepts an image, with the threshold itself."""
    points = []
    for threshold in THRESHOLDS:
        # The first point of the curve whose images are all accepted.
        accepted = next((point for point in curve if point.threshold >= threshold), None)
        if accepted is not None:
            points.append(CoveragePoint(threshold=threshold, coverage=accepted.coverage, accuracy=accepted.accuracy))
    return tuple(points)
