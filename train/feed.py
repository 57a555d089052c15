"""Batches of pictures for the device that trains, in the order that they are asked for.

Pictures from files and archives are decoded on the way. Those of a packed set are copied: from the disk or its cache a
few batches ahead of their use, or, where a GPU has the room for all of them, once and for good.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader

from alexnet_deploy.core.ahead import map_ahead
from alexnet_deploy.core.preprocessing import IMAGE_SIZE, ResizePolicy
from alexnet_deploy.train.dataset import Pictures
from alexnet_deploy.train.packed import PICTURE_BYTES, PackedSide
from alexnet_deploy.train.sources import Example

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Pictures, uint8 (N, 256, 256, 3), and their classes, int64 (N,)."""

# One thread copied 90,000 pictures a second from the cache; the second hides a disk's latency from the first.
_COPY_THREADS = 2
_BATCHES_AHEAD = 4

# The rest is for the network: its weights, gradients and activations.
_SHARE_OF_DEVICE = 0.5

_UPLOAD_PICTURES = 512


class Feed(Protocol):
    """Where the training loop gets its pictures from."""

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the pictures of these places, int64 (M,), so many at a time, on the device; raises DataError."""


def feed_of(examples: Sequence[Example], resize: ResizePolicy, device: torch.device, *, num_workers: int = 0) -> Feed:
    """Return what feeds these pictures to a device; `num_workers` processes decode ahead those that are not packed."""
    if not isinstance(examples, PackedSide):
        return DecodingFeed(Pictures(examples, resize), device, num_workers)
    return ResidentFeed(examples, device) if is_resident(len(examples), device) else CopyingFeed(examples, device)


def is_resident(num_pictures: int, device: torch.device) -> bool:
    """Return whether so many pictures stay on the device: a GPU with twice as much memory free."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return num_pictures * PICTURE_BYTES <= _SHARE_OF_DEVICE * free


class DecodingFeed:
    """Feeds pictures that are decoded each time."""

    def __init__(self, pictures: Pictures, device: torch.device, num_workers: int = 0) -> None:
        self._pictures = pictures
        self._device = device
        self._num_workers = num_workers

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the pictures of these places; raises DataError where one can no longer be read."""
        loader = DataLoader(
            self._pictures,
            batch_size=batch_size,
            sampler=order.tolist(),
            num_workers=self._num_workers,
            # The loader draws a number for its processes: out of torch's own generator it would change the dropout.
            generator=torch.Generator(),
        )
        for images, labels in loader:
            yield images.to(self._device), labels.to(self._device)


class CopyingFeed:
    """Feeds packed pictures from the disk, or from the memory that caches it."""

    def __init__(self, side: PackedSide, device: torch.device) -> None:
        self._side = side
        self._device = device

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the pictures of these places, copied ahead of their use."""
        for images, labels in map_ahead(
            self._copy, _groups(order, batch_size), threads=_COPY_THREADS, ahead=_BATCHES_AHEAD
        ):
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def _copy(self, group: torch.Tensor) -> Batch:
        pack = self._side.pack
        numbers = group.numpy() + self._side.numbers.start
        pack.expect(numbers)
        is_cuda = self._device.type == "cuda"
        images = torch.empty((len(numbers), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8, pin_memory=is_cuda)
        # "clip" alone writes straight into `out`; no number is out of range.
        np.take(pack.pictures, numbers, axis=0, out=images.numpy(), mode="clip")
        labels = torch.from_numpy(pack.labels[numbers])
        return images, labels.pin_memory() if is_cuda else labels


class ResidentFeed:
    """Feeds packed pictures that stay on the device."""

    def __init__(self, side: PackedSide, device: torch.device) -> None:
        self._pictures = torch.empty((len(side), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8, device=device)
        self._labels = torch.empty(len(side), dtype=torch.int64, device=device)
        filled = 0
        for images, labels in CopyingFeed(side, device).batches(torch.arange(len(side)), _UPLOAD_PICTURES):
            self._pictures[filled : filled + len(images)] = images
            self._labels[filled : filled + len(images)] = labels
            filled += len(images)

    def batches(self, order: torch.Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the pictures of these places; nothing leaves the device but the order."""
        for group in _groups(order.to(self._pictures.device), batch_size):
            yield self._pictures.index_select(0, group), self._labels.index_select(0, group)


def _groups(order: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    # torch.split makes one empty group of no pictures.
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
