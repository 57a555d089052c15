"""Temperature scaling: one number that makes a network's confidence agree with its accuracy.

The logits of all views are divided by the temperature before softmax. Dividing the weight and the bias of the last
layer by it does the same, so a calibrated network needs no other structure. Above 1 it lowers confidence.

N images, V views, K classes. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from msgspec import UnsetType

from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.model.weights import LoadedWeights, Weights

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Ends of the search. At 0.05 a difference of 0.2 between two logits becomes a probability of 98 %; at 20 a difference
of 4 becomes 55 %."""

_NUM_STARTS = 25
"""Temperatures tried first, 28 % apart: with several views the likelihood may have more than one maximum."""

_LOG_PRECISION = 1e-6
"""Width of log T at which the search ends."""

_CHUNK = 1024
"""Images evaluated at a time, to limit memory."""


def mean_probabilities(logits_VNK: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the mean over views of softmax(logits / temperature), float64 (N, K), from logits, float (V, N, K)."""
    scaled = logits_VNK.astype(np.float64) / temperature
    scaled -= scaled.max(axis=2, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=2, keepdims=True)
    mean: np.ndarray = scaled.mean(axis=0)
    return mean


def negative_log_likelihood(logits_VNK: np.ndarray, truths: np.ndarray, temperature: float) -> float:
    """Return the mean over images of -log p(truth), in nats, with p as in mean_probabilities; `truths` are int (N,)."""
    total = 0.0
    for start in range(0, len(truths), _CHUNK):
        part = slice(start, start + _CHUNK)
        scaled = logits_VNK[:, part].astype(np.float64) / temperature
        largest = scaled.max(axis=2, keepdims=True)
        normalisers = np.log(np.exp(scaled - largest).sum(axis=2)) + largest[:, :, 0]
        of_truth_VN = np.take_along_axis(scaled, truths[None, part, None], axis=2)[:, :, 0] - normalisers
        # The logarithm of the mean over views, without underflow where all views are certain of another class.
        best = of_truth_VN.max(axis=0)
        total -= float((best + np.log(np.exp(of_truth_VN - best).mean(axis=0))).sum())
    return total / len(truths)


def find_temperature(logits_VNK: np.ndarray, truths: np.ndarray) -> float:
    """Return the temperature of maximum likelihood, from logits, float (V, N, K), and true classes, int (N,).

    Raises DataError where the likelihood has no maximum between MIN_TEMPERATURE and MAX_TEMPERATURE.
    """

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(logits_VNK, truths, math.exp(log_temperature))

    places = np.linspace(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE), _NUM_STARTS).tolist()
    best = int(np.argmin([cost(place) for place in places]))
    if best == 0:
        raise DataError(
            f"no temperature can be found: on these {len(truths):,} images confidence cannot be too high, because "
            "nearly all first guesses are correct; use images that are harder, or more of them"
        )
    if best == len(places) - 1:
        raise DataError(
            f"no temperature can be found: on these {len(truths):,} images the network is no better than chance; "
            "check that each image is in the folder of its class"
        )
    return math.exp(_golden_section(cost, places[best - 1], places[best + 1]))


def with_temperature(weights: Weights, temperature: float) -> Weights:
    """Return weights whose logits are divided by `temperature`: the last layer's weight and bias are, in float64."""
    last = weights.architecture.layers[-1].name
    scaled = {
        name: (weights.tensors[name].astype(np.float64) / temperature).astype(np.float32)
        for name in (f"{last}.weight", f"{last}.bias")
    }
    return replace(weights, tensors={**weights.tensors, **scaled})


def as_published(loaded: LoadedWeights, confidence: Confidence | UnsetType) -> LoadedWeights:
    """Return weights as a bundle with this record has them; path and digest remain those of the file."""
    if not isinstance(confidence, Confidence):
        return loaded
    return replace(loaded, weights=with_temperature(loaded.weights, confidence.temperature))


def _golden_section(cost: Callable[[float], float], low: float, high: float) -> float:
    """Return the place of the minimum between `low` and `high`, for a cost with one minimum there.

    Source: Kiefer 1953, "Sequential minimax search for a maximum".
    """
    share = (math.sqrt(5) - 1) / 2
    left, right = high - share * (high - low), low + share * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    while high - low > _LOG_PRECISION:
        if cost_left <= cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - share * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + share * (high - low)
            cost_right = cost(right)
    return (low + high) / 2
