"""The temperature of maximum likelihood, against SciPy's minimiser and on laws of the likelihood."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from alexnet_deploy.core.confidence.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    find_temperature,
    mean_probabilities,
    negative_log_likelihood,
    with_temperature,
)
from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.model.weights import Weights


def drawn(seed: int, num_views: int, num_classes: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (V, 200, K) and classes that were drawn from their mean softmax, before a factor on the logits."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.0, 2.0, (1, 200, num_classes))
    logits = (shared + rng.normal(0.0, 0.5, (num_views, 200, num_classes))).astype(np.float32)
    sums = mean_probabilities(logits).cumsum(axis=1)
    truths = (rng.random((200, 1)) > sums[:, :-1]).sum(axis=1)
    return logits * np.float32(factor), truths


def scipy_likelihood(logits: np.ndarray, truths: np.ndarray, log_temperature: float) -> float:
    logs = log_softmax(logits.astype(np.float64) / math.exp(log_temperature), axis=2)
    of_truth = logs[:, np.arange(len(truths)), truths]
    return float(-(logsumexp(of_truth, axis=0) - math.log(len(logits))).mean())


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_views=st.sampled_from([1, 2, 4]),
    num_classes=st.sampled_from([2, 5]),
    factor=st.floats(0.3, 6.0),
)
def test_it_is_the_minimum_that_scipy_finds(seed: int, num_views: int, num_classes: int, factor: float) -> None:
    logits, truths = drawn(seed, num_views, num_classes, factor)
    found = find_temperature(logits, truths)
    wanted = minimize_scalar(
        lambda place: scipy_likelihood(logits, truths, place),
        bounds=(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(math.exp(wanted.x), rel=1e-5)
    assert negative_log_likelihood(logits, truths, found) == pytest.approx(wanted.fun, rel=1e-12)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([0.5, 2.0, 4.0]))
def test_logits_times_a_factor_have_a_temperature_times_the_factor(seed: int, factor: float) -> None:
    logits, truths = drawn(seed, num_views=3, num_classes=4, factor=1.0)
    assert find_temperature(factor * logits, truths) == pytest.approx(factor * find_temperature(logits, truths))


def test_classes_that_were_drawn_from_the_probabilities_have_a_temperature_near_one() -> None:
    found = [find_temperature(*drawn(seed, num_views=2, num_classes=5, factor=1.0)) for seed in range(20)]
    # The mean of 20 estimates; each has a standard deviation of about 0.1.
    assert np.mean(np.log(found)) == pytest.approx(0.0, abs=0.08)


def test_a_certain_wrong_guess_in_every_view_costs_its_logit_and_not_infinity() -> None:
    logits = np.zeros((2, 1, 2), np.float32)
    logits[:, 0, 0] = 5000.0
    assert negative_log_likelihood(logits, np.array([1]), 1.0) == pytest.approx(5000.0)


def test_images_are_independent_of_how_many_are_evaluated_at_once() -> None:
    logits, truths = drawn(3, num_views=2, num_classes=3, factor=2.0)
    many, whole = np.tile(logits, (1, 11, 1)), np.tile(truths, 11)
    assert len(whole) > 2048
    assert negative_log_likelihood(many, whole, 1.7) == pytest.approx(scipy_likelihood(many, whole, math.log(1.7)))


def test_images_that_are_all_classified_correctly_are_refused() -> None:
    logits = np.zeros((1, 150, 2), np.float32)
    truths = np.arange(150) % 2
    logits[0, np.arange(150), truths] = 3.0
    with pytest.raises(DataError, match=r"^no temperature can be found: on these 150 images confidence cannot be too"):
        find_temperature(logits, truths)


def test_images_that_the_network_knows_nothing_about_are_refused() -> None:
    logits, truths = drawn(0, num_views=1, num_classes=2, factor=3.0)
    with pytest.raises(DataError, match=r"is no better than chance; check that each image is in the folder of its"):
        find_temperature(logits, 1 - truths)


def test_the_scaled_last_layer_gives_the_scaled_logits(weights: Weights) -> None:
    features = np.random.default_rng(0).normal(size=(4, weights.tensors["fc8.weight"].shape[1]))

    def logits(of: Weights) -> np.ndarray:
        return features @ of.tensors["fc8.weight"].T.astype(np.float64) + of.tensors["fc8.bias"]

    scaled = with_temperature(weights, 1.7)
    assert logits(scaled) == pytest.approx(logits(weights) / 1.7, rel=1e-6)
    changed = {name for name, tensor in scaled.tensors.items() if not np.array_equal(tensor, weights.tensors[name])}
    assert changed == {"fc8.weight", "fc8.bias"}
    assert scaled.tensors["fc8.weight"].dtype == np.float32
