"""Features are compared by the size of their errors and by their direction; NaN fails."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine

from alexnet_deploy.core.golden.record import FeatureTolerance
from alexnet_deploy.engines.proof.features import (
    cosine_distances,
    feature_separation,
    feature_shortfalls,
    relative_errors,
)
from alexnet_deploy.engines.proof.tolerances import FEATURE_TOLERANCES

TOLERANCE = FeatureTolerance(error=0.01, cosine_distance=0.001)
ROWS = arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32))


def test_errors_are_divided_by_the_largest_expected_magnitude() -> None:
    expected = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    actual = np.array([[1.5, -4.0], [2.0, -2.0]], np.float32)
    assert relative_errors(expected, actual).tolist() == [[0.125, 0.0], [0.0, 0.5]]


def test_any_difference_from_zeros_is_infinite() -> None:
    zeros = np.zeros((1, 2), np.float32)
    assert relative_errors(zeros, zeros).tolist() == [[0.0, 0.0]]
    assert relative_errors(zeros, np.array([[0.0, 1e-9]], np.float32)).tolist() == [[0.0, np.inf]]


@given(ROWS, ROWS)
def test_cosine_distance_is_scipys(expected: np.ndarray, actual: np.ndarray) -> None:
    found = cosine_distances(expected, actual)
    for distance, one, other in zip(found, expected.astype(np.float64), actual.astype(np.float64), strict=True):
        if one.any() and other.any():
            assert distance == pytest.approx(cosine(one, other), abs=1e-12)


@given(ROWS, st.floats(0.125, 8))
def test_a_scaled_row_has_the_same_direction(rows: np.ndarray, factor: float) -> None:
    assert cosine_distances(rows, rows * np.float64(factor)).max() <= 1e-15


def test_the_distance_from_a_row_of_zeros() -> None:
    zeros, row = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert cosine_distances(zeros, zeros).tolist() == [0.0]
    assert cosine_distances(zeros, row).tolist() == cosine_distances(row, zeros).tolist() == [1.0]


def test_opposite_rows_are_the_farthest() -> None:
    rows = np.array([[3.0, -4.0]], np.float32)
    assert cosine_distances(rows, -rows).tolist() == [2.0]


def test_equal_features_fall_short_of_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    assert feature_shortfalls(rows, rows.copy(), FEATURE_TOLERANCES["fp32"]) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            (0, 1, 1.05),
            ("a feature is off by 0.05 of the largest, over 0.01", "a cosine distance is 0.00", "over 0.001"),
        ),
        (
            (1, 0, np.nan),
            ("1 of 2 rows contain NaN or infinity", "a feature is off by nan", "a cosine distance is nan"),
        ),
        (
            (1, 0, np.inf),
            ("1 of 2 rows contain NaN or infinity", "a feature is off by inf", "a cosine distance is nan"),
        ),
    ],
)
def test_each_shortfall_is_named(change: tuple[int, int, float], words: tuple[str, ...]) -> None:
    expected = np.ones((2, 2), np.float32)
    actual = expected.copy()
    row, column, value = change
    actual[row, column] = value
    if np.isfinite(value):
        # One feature grows, the other shrinks: the direction changes too.
        actual[row, 0] = 2 - value
    with np.errstate(invalid="ignore"):
        found = "; ".join(feature_shortfalls(expected, actual, TOLERANCE))
    assert all(part in found for part in words), found


def test_a_change_of_size_alone_is_found_by_the_error() -> None:
    expected = np.ones((1, 2), np.float32)
    assert feature_shortfalls(expected, 2 * expected, TOLERANCE) == ("a feature is off by 1 of the largest, over 0.01",)


def test_a_change_of_one_weak_row_is_found_by_its_direction() -> None:
    expected = np.array([[100.0, 0.0], [0.1, 0.1]], np.float32)
    actual = np.array([[100.0, 0.0], [0.1, 0.0]], np.float32)
    (found,) = feature_shortfalls(expected, actual, TOLERANCE)
    assert found == "a cosine distance is 0.293, over 0.001"


def test_separation_is_the_larger_of_both_multiples() -> None:
    expected = np.array([[1.0, 0.0]], np.float32)
    assert feature_separation(expected, 1.5 * expected, TOLERANCE) == pytest.approx(50)
    # An angle of 1e-3, where 1e-5 is allowed.
    turned = np.array([[1.0, 1e-3]], np.float32)
    strict = FeatureTolerance(error=0.01, cosine_distance=5e-11)
    assert feature_separation(expected, turned, strict) == pytest.approx(100, rel=1e-3)
