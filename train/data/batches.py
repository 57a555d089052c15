"""What the training loop asks of images: batches of them, by their numbers, wherever they come from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch


class Batches(Protocol):
    """Labelled images that are fetched in batches."""

    def __len__(self) -> int:
        """Return how many images there are; their numbers are 0 to that."""

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield for each tensor of image numbers, int64 (N,), the images in that order and their labels.

        Images are uint8 (N, 256, 256, 3), RGB, upright; labels int64 (N,); both on any device. N may be 0.
        """


def in_batches(numbers: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Return image numbers, int64 (N,), in runs of `batch_size`, the last one perhaps shorter."""
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Images to learn from and to validate on, with what the loop has to know of them."""

    root: Path
    """What was named."""
    labels: tuple[str, ...]
    """The classes' names, in the order of the images' labels."""
    train: Batches
    """What is learnt from."""
    validation: Batches
    """What is only measured on."""
    excluded: Mapping[str, str]
    """Images that were left out: name to error code."""
    sha256: str
    """Digest of all images and labels that are used: what equal runs have in common."""
    class_counts: tuple[int, ...]
    """Training images of each class."""
    mean: np.ndarray
    """Of the training images' RGB, float64 (3,), on 0..255."""
    covariance: np.ndarray
    """Of the training images' RGB, float64 (3, 3), on 0..255."""
