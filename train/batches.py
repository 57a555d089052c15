"""What the training loop asks of pictures: batches of them, by their numbers, wherever they come from."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch


class Batches(Protocol):
    """Labelled pictures that are fetched in batches."""

    def __len__(self) -> int:
        """Return how many pictures there are; their numbers are 0 to that."""

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield for each tensor of picture numbers, int64 (N,), the pictures in that order and their labels.

        Pictures are uint8 (N, 256, 256, 3), RGB, upright; labels int64 (N,); both on any device.
        """


def in_batches(numbers: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Return picture numbers, int64 (N,), in runs of `batch_size`, the last one perhaps shorter."""
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
