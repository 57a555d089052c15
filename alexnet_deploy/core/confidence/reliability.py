"""Agreement of confidence with accuracy: reliability bins, expected calibration error, and accuracy against coverage.

The confidence of an image is the probability of its top-1 prediction. N images.
"""

import numpy as np
from msgspec import Struct

NUM_BINS = 15
"""Number of bins of equal width. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 5."""


class ReliabilityBin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The images whose confidence is in one interval."""

    low: float
    """Smallest confidence of the interval, 0..1."""
    high: float
    """End of the interval, excluded; only the last interval includes its end, 1."""
    num_images: int
    mean_confidence: float | None
    """Mean confidence of its images, 0..1; None without images."""
    accuracy: float | None
    """Share of its images with a correct top-1 prediction, 0..1; None without images."""


class Reliability(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agreement of confidence with accuracy on labelled images."""

    num_images: int
    expected_calibration_error: float
    """Mean over images of the distance between the accuracy and the mean confidence of their bin, 0..1."""
    bins: tuple[ReliabilityBin, ...]
    """In order of confidence; they cover 0..1."""


def reliability(confidences: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """Return the reliability of N images, 1 or more: their confidences, float (N,) in 0..1, and hits, bool (N,).

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", and Guo et al. 2017.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    confidences = confidences.astype(np.float64)
    places = np.clip(np.searchsorted(edges, confidences, side="right") - 1, 0, num_bins - 1)
    bins, error = [], 0.0
    for number in range(num_bins):
        inside = places == number
        num_images = int(inside.sum())
        mean = float(confidences[inside].mean()) if num_images else None
        accuracy = float(is_right[inside].mean()) if num_images else None
        if mean is not None and accuracy is not None:
            error += num_images / len(confidences) * abs(accuracy - mean)
        bins.append(
            ReliabilityBin(
                low=float(edges[number]),
                high=float(edges[number + 1]),
                num_images=num_images,
                mean_confidence=mean,
                accuracy=accuracy,
            )
        )
    return Reliability(num_images=len(confidences), expected_calibration_error=error, bins=tuple(bins))


def most_confident_errors(confidences: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Return the indices of the images that are not right, int64, highest confidence first; ties in order."""
    wrong = np.flatnonzero(~is_right)
    found: np.ndarray = wrong[np.argsort(-confidences[wrong], kind="stable")]
    return found


class CoveragePoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What remains if predictions below a threshold are rejected."""

    threshold: float
    """Smallest accepted confidence, 0..1."""
    coverage: float
    """Share of images that are accepted, 0..1."""
    accuracy: float
    """Top-1 accuracy on the accepted images, 0..1."""


def coverage_curve(confidences: np.ndarray, is_right: np.ndarray) -> tuple[CoveragePoint, ...]:
    """Return a point for each different confidence of N images, by falling coverage; the first accepts all.

    `confidences` are float (N,) in 0..1, `is_right` bool (N,). One minus the accuracy is the selective risk. Source:
    Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks".
    """
    order = np.argsort(confidences, kind="stable")
    sorted_confidences = confidences[order].astype(np.float64)
    num_right = np.cumsum(is_right[order][::-1])[::-1]
    first_of_each = np.flatnonzero(np.diff(sorted_confidences, prepend=-1.0) > 0)
    num_images = len(confidences)
    return tuple(
        CoveragePoint(
            threshold=float(sorted_confidences[place]),
            coverage=(num_images - int(place)) / num_images,
            accuracy=float(num_right[place]) / (num_images - int(place)),
        )
        for place in first_of_each
    )
