"""Validation: loss and accuracy on the validation images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.learner.augment import standardised
from alexnet_deploy.train.runtime.placement import Placement

_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Metrics of one pass over the validation images, centre view."""

    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Top-1 accuracy, 0..1."""
    top5: float
    """Top-5 accuracy, 0..1."""
    confusion: np.ndarray
    """int64 (K, K): confusion matrix, true class (row) and top-1 prediction (column)."""


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
    """Validate a network; `forward` returns its logits (N, K) for preprocessed views (N, 3, size, size).

    With several ranks, each computes its share of the images, and all return the metrics of the whole.
    """
    ranks = placement.ranks
    (center,) = views_by_name("center", size)
    loss_sum, top5 = 0.0, 0
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    # Every rank needs the same number of batches, because all ranks decide together whether to stop.
    numbers = in_batches(torch.arange(len(batches)), _BATCH_SIZE * ranks.size)
    for images, targets in batches.batches([ranks.shard(batch) for batch in numbers]):
        stop_if_asked()
        # Cut first: the rest of the pixels need no arithmetic.
        crops = images[:, center.top : center.top + size, center.left : center.left + size].to(placement.device)
        logits, targets = forward(standardised(crops.float(), preprocessing)).float().cpu(), targets.cpu()
        loss_sum += functional.cross_entropy(logits, targets, reduction="sum").item()
        predictions = logits.topk(min(5, num_classes)).indices
        top5 += int((predictions == targets[:, None]).any(1).sum())
        np.add.at(confusion, (targets.numpy(), predictions[:, 0].numpy()), 1)
    loss_sum, top5, *counts = ranks.all_reduce(np.array([loss_sum, top5, *confusion.ravel()])).tolist()
    confusion = np.array(counts, dtype=np.int64).reshape(confusion.shape)
    return Validation(
        loss=loss_sum / len(batches),
        top1=float(np.trace(confusion) / len(batches)),
        top5=top5 / len(batches),
        confusion=confusion,
    )
