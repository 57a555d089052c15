"""The calibration error by chance, against networks that are right by construction."""

import numpy as np
import pytest

from alexnet_deploy.core.confidence.chance import chance_error
from alexnet_deploy.core.confidence.reliability import reliability


@pytest.mark.parametrize("num_images", [100, 600, 5000])
def test_it_is_the_mean_error_of_simulated_networks_whose_confidence_is_right(num_images: int) -> None:
    rng = np.random.default_rng(num_images)
    confidences = 1 - rng.random(num_images) ** 2 / 2
    errors = [
        reliability(confidences, rng.random(num_images) < confidences).expected_calibration_error for _ in range(400)
    ]
    found = chance_error(reliability(confidences, np.ones(num_images, bool)))
    # The normal distribution overestimates intervals with few images by a few per cent.
    assert found == pytest.approx(np.mean(errors), rel=0.08)


def test_certainty_has_no_chance() -> None:
    assert chance_error(reliability(np.array([1.0, 0.0]), np.array([True, False]))) == 0.0
