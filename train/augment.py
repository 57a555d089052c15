"""Random crops, mirrors and the paper's colour noise, for a whole batch at a time, on its device.

Source: Krizhevsky et al. 2012, section 4.1. N images, S side of the crop in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from alexnet_deploy.core.preprocessing import IMAGE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some pictures of a batch: draws are made for the whole of it, so that a part looks as it does in the whole."""

    num_images: int
    """Pictures of the batch."""
    rows: slice
    """Which of them these are."""


def whole(num_images: int) -> Part:
    """Return all of a batch."""
    return Part(num_images=num_images, rows=slice(None))


def crop_and_mirror(
    images: torch.Tensor, size: int, generator: torch.Generator, part: Part | None = None
) -> torch.Tensor:
    """Return a random size x size crop of each picture, every other one mirrored: uint8 (N, S, S, 3).

    `images` are uint8 (N, 256, 256, 3) on any device, a whole batch unless `part` says which of it; `generator` is the
    CPU's, so that devices draw alike.
    """
    part = part or whole(len(images))
    corners = torch.randint(0, IMAGE_SIZE - size + 1, (2, part.num_images, 1), generator=generator)[:, part.rows]
    mirrored = torch.randint(0, 2, (part.num_images, 1), generator=generator)[part.rows]
    steps = torch.arange(size)
    rows = corners[0] + steps
    columns = corners[1] + torch.where(mirrored == 1, size - 1 - steps, steps)
    numbers = torch.arange(len(images))
    device = images.device
    return images[numbers[:, None, None].to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]


def scaled_crop_and_mirror(
    images: torch.Tensor, size: int, min_area: float, generator: torch.Generator, part: Part | None = None
) -> torch.Tensor:
    """Return a random square of each picture scaled to size x size, every other one mirrored: float32 (N, S, S, 3).

    `images` are uint8 (N, 256, 256, 3) on any device, a whole batch unless `part` says which of it. A square's share of
    the picture's area is even over `min_area` to 1, its place over all that lie inside; it is read off bilinearly
    between the centres of pixels. `generator` is the CPU's, so that devices draw alike.
    """
    part = part or whole(len(images))
    areas, tops, lefts = torch.rand((3, part.num_images), generator=generator)[:, part.rows]
    mirrored = torch.randint(0, 2, (part.num_images,), generator=generator)[part.rows]
    if not len(images):
        # affine_grid takes no batch of none.
        return images.new_empty((0, size, size, 3), dtype=torch.float32)
    sides = torch.sqrt(min_area + (1 - min_area) * areas)
    # Of the square, in the units of affine_grid, where a picture reaches from -1 to 1.
    centers_y, centers_x = ((2 * places - 1) * (1 - sides) for places in (tops, lefts))
    zeros = torch.zeros_like(sides)
    rows = [[torch.where(mirrored == 1, -sides, sides), zeros, centers_x], [zeros, sides, centers_y]]
    places = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = functional.affine_grid(places, [len(images), 3, size, size], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    crops = functional.grid_sample(pixels, grid.to(images.device), padding_mode="border", align_corners=False)
    return crops.permute(0, 2, 3, 1)


def color_axes(covariance: np.ndarray) -> torch.Tensor:
    """Return the principal axes of RGB, each as long as its standard deviation: float32 (3, 3), axes in columns.

    The paper's text multiplies by the eigenvalues; the authors' code by their square roots, the deviations, as here:
    eigenvalues would be noise of about 1,483 grey levels.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    return torch.from_numpy((eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))).astype(np.float32))


def color_shift(num_images: int, axes: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Return what is added to every pixel of each picture, RGB on 0..255: float32 (N, 3), on the CPU."""
    return deviation * torch.randn((num_images, 3), generator=generator) @ axes.T
