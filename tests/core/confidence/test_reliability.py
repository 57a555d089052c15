"""Reliability and coverage on counts that can be checked by hand, and on laws that hold for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.core.confidence.reliability import coverage_curve, reliability


def test_the_error_is_the_mean_distance_of_the_bins() -> None:
    confidences = np.array([0.1, 0.1, 0.95, 0.95])
    found = reliability(confidences, np.array([True, False, True, True]), num_bins=10)
    # Two images are right half the time at a confidence of 0.1, two always at 0.95.
    assert found.expected_calibration_error == pytest.approx(0.5 * 0.4 + 0.5 * 0.05)
    assert [each.num_images for each in found.bins] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (found.bins[0].mean_confidence, found.bins[0].accuracy) == (None, None)
    assert (found.bins[1].accuracy, found.bins[9].accuracy) == (0.5, 1.0)


def test_a_confidence_of_one_is_in_the_last_bin_and_an_edge_in_the_upper_one() -> None:
    found = reliability(np.array([1.0, 0.5, 0.0]), np.array([True, True, True]), num_bins=2)
    assert [each.num_images for each in found.bins] == [1, 2]


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60))
def test_every_image_is_in_one_bin_and_the_error_is_a_share(images: list[tuple[float, bool]]) -> None:
    confidences, is_right = (np.array(column) for column in zip(*images, strict=True))
    found = reliability(confidences, is_right)
    assert sum(each.num_images for each in found.bins) == found.num_images == len(images)
    assert 0 <= found.expected_calibration_error <= 1


def test_coverage_falls_as_the_threshold_rises() -> None:
    curve = coverage_curve(np.array([0.9, 0.4, 0.4, 0.7]), np.array([True, False, True, False]))
    assert [(point.threshold, point.coverage, point.accuracy) for point in curve] == [
        (0.4, 1.0, 0.5),
        (0.7, 0.5, 0.5),
        (0.9, 0.25, 1.0),
    ]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_each_point_counts_what_its_threshold_accepts(images: list[tuple[float, bool]]) -> None:
    confidences, is_right = (np.array(column) for column in zip(*images, strict=True))
    for point in coverage_curve(confidences, is_right):
        accepted = confidences >= point.threshold
        assert point.coverage == pytest.approx(accepted.mean())
        assert point.accuracy == pytest.approx(is_right[accepted].mean())
