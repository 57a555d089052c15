"""How good a network is on images that it has not learnt from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from alexnet_deploy.core.model.network import cut, preprocess
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.runtime.placement import Placement

_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a pass over the validation images gave, centre view."""

    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Share whose first guess is right, 0..1."""
    top5: float
    """Share whose first five guesses hold the right one, 0..1."""
    confusion: np.ndarray
    """int64 (K, K): images by true class (row) and first guess (column)."""


@torch.inference_mode()
def validate(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: Batches,
    preprocessing: Preprocessing,
    *,
    size: int,
    num_classes: int,
    placement: Placement,
    stop_if_asked: Callable[[], None],
) -> Validation:
    """Measure a network, given as what makes logits (N, K) of preprocessed views (N, 3, size, size).

    Of several ranks each looks at its share of the images, and all return what the whole gave.
    """
    ranks = placement.ranks
    (center,) = views_by_name("center", size)
    loss_sum, top5 = 0.0, 0
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    # As many batches in every rank: each of them asks all whether to stop.
    numbers = in_batches(torch.arange(len(batches)), _BATCH_SIZE * ranks.size)
    for images, labels in batches.batches([ranks.shard(batch) for batch in numbers]):
        stop_if_asked()
        pixels = preprocess(images.to(placement.device), preprocessing)
        logits, truth = forward(cut(pixels, center, size)).float().cpu(), labels.cpu()
        loss_sum += functional.cross_entropy(logits, truth, reduction="sum").item()
        guesses = logits.topk(min(5, num_classes)).indices
        top5 += int((guesses == truth[:, None]).any(1).sum())
        np.add.at(confusion, (truth.numpy(), guesses[:, 0].numpy()), 1)
    loss_sum, top5, *counts = ranks.all_reduce(np.array([loss_sum, top5, *confusion.ravel()])).tolist()
    confusion = np.array(counts, dtype=np.int64).reshape(confusion.shape)
    return Validation(
        loss=loss_sum / len(batches),
        top1=float(np.trace(confusion) / len(batches)),
        top5=top5 / len(batches),
        confusion=confusion,
    )
