"""What the training loop needs from any source of images: batches, by image number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch


class Batches(Protocol):
    """Labelled images that can be read in batches."""

    def __len__(self) -> int:
        """Return the number of images; their numbers start at 0."""

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield, for each tensor of image numbers, int64 (N,), the images in that order and their targets.

        Images are uint8 (N, 256, 256, 3), RGB, upright; targets are class numbers, int64 (N,); both on any device. N
        may be 0.
        """


def in_batches(numbers: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Split image numbers, int64 (N,), into batches of `batch_size`; the last may be smaller."""
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Training and validation images, with the facts that the training loop needs."""

    root: Path
    """The path that the user named."""
    class_names: tuple[str, ...]
    """Class names; an image's label is an index into them."""
    train: Batches
    """Training images."""
    validation: Batches
    """Validation images."""
    excluded: Mapping[str, str]
    """Images that were skipped: name to error code."""
    sha256: str
    """Digest of all images and labels used; equal for equal runs."""
    class_counts: tuple[int, ...]
    """Number of training images of each class."""
    mean: np.ndarray
    """RGB mean of the training images, float64 (3,), on 0..255."""
    covariance: np.ndarray
    """RGB covariance of the training images, float64 (3, 3), on 0..255."""
