"""Batches of images for the training device.

Images in files and archives are decoded when they are needed. Packed images are copied: a few batches ahead from the
disk or its cache, or all of them once if they fit on the GPU.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ImagePolicy
from alexnet_deploy.core.process.ahead import map_ahead
from alexnet_deploy.train.data.batches import Batches, TrainingSet, in_batches
from alexnet_deploy.train.data.scan import DecodedImages, Survey
from alexnet_deploy.train.data.source import Example
from alexnet_deploy.train.pack.format import IMAGE_BYTES, PackedSide, class_counts

# One thread copied 90,000 images a second from the cache; the second hides the latency of the disk.
_COPY_THREADS = 2
_BATCHES_AHEAD = 4

# Largest share of free GPU memory for images; the rest is for weights, gradients and activations.
_SHARE_OF_DEVICE = 0.5

_UPLOAD_IMAGES = 512


def training_set(
    found: Survey, policy: ImagePolicy, device: torch.device, *, threads: int | None = None
) -> TrainingSet:
    """Return surveyed images as a TrainingSet for the training loop; see batches_of."""
    train, validation = (
        batches_of(examples, policy, device, threads=threads)
        for examples in (found.folder.train, found.folder.validation)
    )
    return TrainingSet(
        root=found.folder.root,
        class_names=found.folder.class_names,
        train=train,
        validation=validation,
        excluded=found.excluded,
        sha256=found.sha256,
        class_counts=class_counts(found.folder),
        mean=found.mean,
        covariance=found.covariance,
    )


def batches_of(
    examples: Sequence[Example], policy: ImagePolicy, device: torch.device, *, threads: int | None = None
) -> Batches:
    """Return batches of these images for a device; `threads` decode images that are not packed."""
    if not isinstance(examples, PackedSide):
        return DecodedImages(examples, policy, threads)
    is_kept = is_resident(len(examples), device)
    return ResidentImages(examples, device) if is_kept else CopiedImages(examples, device)


def is_resident(num_images: int, device: torch.device) -> bool:
    """Return whether this many images can stay on the device: a GPU with at least twice their size in free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return num_images * IMAGE_BYTES <= _SHARE_OF_DEVICE * free


class CopiedImages:
    """Packed images, copied from the disk or its cache for every batch."""

    def __init__(self, side: PackedSide, device: torch.device) -> None:
        self._side = side
        self._device = device

    def __len__(self) -> int:
        return len(self._side)

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images of each tensor of numbers and their targets, on the device, copied ahead."""
        for images, targets in map_ahead(self._copy, numbers, threads=_COPY_THREADS, ahead=_BATCHES_AHEAD):
            yield images.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def _copy(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pack = self._side.pack
        places = numbers.numpy() + self._side.numbers.start
        pack.expect(places)
        is_cuda = self._device.type == "cuda"
        images = torch.empty((len(places), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8, pin_memory=is_cuda)
        # Only "clip" writes straight into `out`; `expect` has already refused numbers out of range.
        np.take(pack.images, places, axis=0, out=images.numpy(), mode="clip")
        targets = torch.from_numpy(pack.labels[places])
        return images, targets.pin_memory() if is_cuda else targets


class ResidentImages:
    """Packed images that stay in device memory."""

    def __init__(self, side: PackedSide, device: torch.device) -> None:
        self._images = torch.empty((len(side), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8, device=device)
        self._targets = torch.empty(len(side), dtype=torch.int64, device=device)
        filled = 0
        everything = in_batches(torch.arange(len(side)), _UPLOAD_IMAGES)
        for images, targets in CopiedImages(side, device).batches(everything):
            self._images[filled : filled + len(images)] = images
            self._targets[filled : filled + len(images)] = targets
            filled += len(images)

    def __len__(self) -> int:
        return len(self._targets)

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images of each tensor of numbers and their targets; only the numbers are copied to the device."""
        for batch in numbers:
            places = batch.to(self._images.device, non_blocking=True)
            yield self._images.index_select(0, places), self._targets.index_select(0, places)
