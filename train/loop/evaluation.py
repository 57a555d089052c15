"""Evaluation of trained weights on their validation images, by the centre view and by ten views.

N images, V views, K classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_deploy.core.model.network import cut, network_from, preprocess
from alexnet_deploy.core.model.views import View, views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.learner.lrn import use_training_norms

MOST_IMAGES = 2000
"""Default number of images: at full size, ten views of this many take minutes on a CPU."""

_NUM_PREDICTIONS = 5

# One view of each image at a time: half a gigabyte at full size.
_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Predictions for N images: the mean softmax over some views."""

    predictions: np.ndarray
    """int64 (N, min(5, K)): predicted classes, most probable first; ties in class order."""
    probabilities: np.ndarray
    """float32 (N, min(5, K)): their probabilities."""
    losses: np.ndarray
    """float64 (N,): cross-entropy with the true class, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Predictions for N validation images, by one view and by ten."""

    numbers: np.ndarray
    """int64 (N,): numbers of the validation images."""
    truths: np.ndarray
    """int64 (N,): their true classes."""
    center: Answers
    """By the centre view."""
    ten: Answers
    """By the paper's ten views."""


def spread_numbers(num_images: int, most: int = MOST_IMAGES) -> np.ndarray:
    """Return `most` of the numbers 0 to num_images - 1, evenly spaced, or all of them, int64, ascending."""
    num_chosen = min(num_images, most)
    return (2 * np.arange(num_chosen) + 1) * num_images // (2 * max(num_chosen, 1))


@torch.inference_mode()
def evaluate(
    weights: Weights,
    batches: Batches,
    numbers: np.ndarray,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate the weights, in float32, on one or more images given by their numbers, int64 (N,).

    Each of the ten views is computed once; the centre view is one of them. `on_progress` gets the number of finished
    images and the total. Raises whatever reading the images raises.
    """
    views = views_by_name("ten", weights.architecture.input_size)
    (middle,) = views_by_name("center", weights.architecture.input_size)
    center = views.index(middle)
    truths: list[np.ndarray] = []
    answers: tuple[list[Answers], list[Answers]] = ([], [])
    num_done = 0
    for logits_VNK, targets in logits_by_view(weights, batches, numbers, views, device):
        logs_VNK = torch.log_softmax(logits_VNK, dim=2)
        for parts, logs in zip(answers, (logs_VNK[center : center + 1], logs_VNK), strict=True):
            parts.append(_answers(logs, targets.to(logs.device)))
        truths.append(targets.cpu().numpy())
        num_done += len(targets)
        on_progress(num_done, len(numbers))
    by_center, by_ten = (_joined(parts) for parts in answers)
    return Evaluation(numbers=numbers, truths=np.concatenate(truths), center=by_center, ten=by_ten)


@torch.inference_mode()
def logits_by_view(
    weights: Weights, batches: Batches, numbers: np.ndarray, views: tuple[View, ...], device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the logits of some images by their numbers, int64 (N,), a batch at a time, and their targets.

    Logits are float32 (V, N, K), on the device, TF32 off.
    """
    network, place = network_from(weights.architecture, weights.tensors), torch.device(device)
    use_training_norms(network)
    network = network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = weights.architecture.input_size
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for images, targets in batches.batches(in_batches(torch.from_numpy(numbers), _BATCH_SIZE)):
            pixels = preprocess(images.to(place), weights.preprocessing, weights.mean_image)
            crops = (cut(pixels, view, size).contiguous(memory_format=torch.channels_last) for view in views)
            yield torch.stack([network(crop).float() for crop in crops]), targets


def _answers(logs_VNK: torch.Tensor, targets: torch.Tensor) -> Answers:
    probabilities = logs_VNK.exp().mean(0)
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :_NUM_PREDICTIONS]
    # Computed from logarithms, so that a probability too small for float32 does not give an infinite loss.
    of_target_VN = logs_VNK.double()[:, torch.arange(len(targets), device=targets.device), targets]
    losses = np.log(len(logs_VNK)) - of_target_VN.logsumexp(0)
    return Answers(
        predictions=order.cpu().numpy(),
        probabilities=probabilities.gather(1, order).cpu().numpy(),
        losses=losses.cpu().numpy(),
    )


def _joined(parts: list[Answers]) -> Answers:
    return Answers(
        predictions=np.concatenate([one.predictions for one in parts]),
        probabilities=np.concatenate([one.probabilities for one in parts]),
        losses=np.concatenate([one.losses for one in parts]),
    )
