"""Accuracy of two networks on the same labelled images, with the confidence interval of the difference."""

from collections.abc import Sequence

import numpy as np

from alexnet_deploy.core.bundle.accuracy import Z_95, Accuracy, Flip
from alexnet_deploy.core.inputs.labelled import LabelledFolder
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.engines.proof.parity import top1_predictions


def measure_accuracy(
    folder: LabelledFolder,
    labels: Sequence[str],
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    max_drop_points: float,
) -> Accuracy:
    """Return the accuracy of both networks on a folder's N images, from their probabilities, float (N, K)."""
    truths = np.array([image.label for image in folder.images])
    first, other = top1_predictions(reference), top1_predictions(candidate)
    is_right, is_right_too = first == truths, other == truths
    flips = tuple(
        Flip(
            path=Input(name=str(folder.images[place].path.relative_to(folder.root))).text,
            truth=labels[truths[place]],
            reference=_said(labels, first[place]),
            candidate=_said(labels, other[place]),
        )
        for place in np.flatnonzero(first != other)
    )
    num_lost, num_won = int((is_right & ~is_right_too).sum()), int((is_right_too & ~is_right).sum())
    return Accuracy(
        images_sha256=folder.sha256,
        num_images=len(truths),
        reference_top1=float(is_right.mean()),
        reference_top5=_top5(reference, truths),
        candidate_top1=float(is_right_too.mean()),
        candidate_top5=_top5(candidate, truths),
        drop_points=100 * (num_lost - num_won) / len(truths),
        interval_points=paired_interval_points(num_lost, num_won, len(truths)),
        max_drop_points=max_drop_points,
        flips=flips,
    )


def paired_interval_points(num_lost: int, num_won: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a paired difference of proportions, in percentage points.

    Of `num_images` images only the reference is correct on `num_lost`, only the candidate on `num_won`. Unlike the
    plain Wald interval, this one does not shrink to zero width if no image differs. Source: Bonett and Price 2012,
    "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data".
    """
    lost, won = (num_lost + 1) / (num_images + 2), (num_won + 1) / (num_images + 2)
    margin = Z_95 * np.sqrt((lost + won - (lost - won) ** 2) / (num_images + 2))
    return float(100 * (lost - won - margin)), float(100 * (lost - won + margin))


def _said(labels: Sequence[str], predicted: int) -> str:
    return labels[predicted] if predicted >= 0 else "none (NaN)"


def _top5(probabilities: np.ndarray, truths: np.ndarray) -> float:
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return float(((best == truths[:, None]).any(axis=1) & (top1_predictions(probabilities) >= 0)).mean())
