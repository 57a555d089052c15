"""The temperature of trained weights: found on images, and judged on images that did not find it.

N images, V views, K classes.
"""

from collections.abc import Sequence

import numpy as np

from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.confidence.reliability import Reliability, reliability
from alexnet_deploy.core.confidence.temperature import find_temperature, mean_probabilities, negative_log_likelihood
from alexnet_deploy.core.images.batches import decode_batches
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.engines.backends.torch import view_logits
from alexnet_deploy.pipeline.confidence.images import ConfidenceImages


def calibrate_confidence(weights: Weights, views: Sequence[View], images: ConfidenceImages, say: Say) -> Confidence:
    """Return the temperature of the trained network on these images, and its effect; see Confidence.

    Raises DataError where no temperature can be found: see find_temperature.
    """
    say(f"running the trained network on {counted(len(images.sources), 'image')} to calibrate confidence")
    batches = decode_batches(images.sources, weights.preprocessing.image_policy)
    logits_VNK, truths = view_logits(weights, views, batches), images.truths
    temperature = find_temperature(logits_VNK, truths)
    before = mean_probabilities(logits_VNK)
    after, loss_after, half_temperatures = _with_other_half(logits_VNK, truths)
    is_changed = before.argmax(axis=1) != mean_probabilities(logits_VNK, temperature).argmax(axis=1)
    return Confidence(
        temperature=temperature,
        half_temperatures=half_temperatures,
        num_images=len(truths),
        images_sha256=images.sha256,
        is_validation=images.is_validation,
        before=_reliability(before, truths),
        after=_reliability(after, truths),
        loss_before=negative_log_likelihood(logits_VNK, truths, 1.0),
        loss_after=loss_after,
        num_changed=int(is_changed.sum()),
    )


def _with_other_half(logits_VNK: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, float, tuple[float, float]]:
    """Return probabilities, float64 (N, K), each with the temperature of the half without its image.

    Also return their mean cross-entropy, in nats, and the temperatures of both halves.

    The halves are every second image; images are class by class, so that both have the same share of each class.
    """
    probabilities = np.empty(logits_VNK.shape[1:])
    found, loss = [], 0.0
    for start in (0, 1):
        own, other = slice(start, None, 2), slice(1 - start, None, 2)
        found.append(find_temperature(logits_VNK[:, own], truths[own]))
        probabilities[other] = mean_probabilities(logits_VNK[:, other], found[-1])
        share = len(truths[other]) / len(truths)
        loss += share * negative_log_likelihood(logits_VNK[:, other], truths[other], found[-1])
    return probabilities, loss, (found[0], found[1])


def _reliability(probabilities: np.ndarray, truths: np.ndarray) -> Reliability:
    return reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == truths)
