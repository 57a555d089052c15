"""Differences between two sets of features of one layer, float (N, D), both for the same images.

Everything is computed in float64, and written so that NaN fails.
"""

import math

import numpy as np

from alexnet_deploy.core.golden.record import FeatureTolerance


def relative_errors(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return the absolute differences divided by the largest expected magnitude, float64 (N, D); infinite for 0."""
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    errors = np.abs(candidate - reference)
    largest = np.abs(reference).max()
    with np.errstate(divide="ignore", invalid="ignore"):
        relative: np.ndarray = np.where(errors == 0.0, 0.0, errors / largest)
    return relative


def cosine_distances(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return 1 minus the cosine similarity of each row with its counterpart, float64 (N,), 0..2.

    It is 0 between two rows of zeros, and 1 between one such row and another.
    """
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    lengths = np.linalg.norm(reference, axis=1), np.linalg.norm(candidate, axis=1)
    product = lengths[0] * lengths[1]
    both_zero = (lengths[0] == 0.0) & (lengths[1] == 0.0)
    similarity = np.divide(
        np.einsum("nd,nd->n", reference, candidate), product, out=both_zero.astype(np.float64), where=product != 0.0
    )
    # Rounding can give 1 + 2e-16; np.maximum keeps NaN.
    distances: np.ndarray = np.maximum(1.0 - similarity, 0.0)
    return distances


def feature_shortfalls(expected: np.ndarray, actual: np.ndarray, tolerance: FeatureTolerance) -> tuple[str, ...]:
    """Return a description of each difference beyond the tolerance."""
    error, distance = _largest(expected, actual)
    found = []
    if not np.isfinite(actual).all():
        num_bad = int((~np.isfinite(actual)).any(axis=1).sum())
        found.append(f"{num_bad} of {len(actual)} rows contain NaN or infinity")
    if not error <= tolerance.error:
        found.append(f"a feature is off by {error:.3g} of the largest, over {tolerance.error:g}")
    if not distance <= tolerance.cosine_distance:
        found.append(f"a cosine distance is {distance:.3g}, over {tolerance.cosine_distance:g}")
    return tuple(found)


def feature_separation(expected: np.ndarray, faulty: np.ndarray, tolerance: FeatureTolerance) -> float:
    """Return the error of a faulty network as a multiple of the tolerance; above 1 the fault is detected.

    Angles are compared, not cosine distances: a small distance is half the square of the angle.
    """
    error, distance = _largest(expected, faulty)
    return max(error / tolerance.error, math.sqrt(distance / tolerance.cosine_distance))


def _largest(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    return float(relative_errors(expected, actual).max()), float(cosine_distances(expected, actual).max())
