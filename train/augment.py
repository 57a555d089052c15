"""Random crops, mirrors and the paper's colour noise, for a whole batch at a time, on its device.

Source: Krizhevsky et al. 2012, section 4.1. N images, S side of the crop in pixels.
"""

import numpy as np
import torch

from alexnet_deploy.core.preprocessing import IMAGE_SIZE


def crop_and_mirror(images: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random size x size crop of each picture, every other one mirrored: uint8 (N, S, S, 3).

    `images` are uint8 (N, 256, 256, 3) on any device; `generator` is the CPU's, so that devices draw alike.
    """
    num_images = len(images)
    corners = torch.randint(0, IMAGE_SIZE - size + 1, (2, num_images, 1), generator=generator)
    mirrored = torch.randint(0, 2, (num_images, 1), generator=generator)
    steps = torch.arange(size)
    rows = corners[0] + steps
    columns = corners[1] + torch.where(mirrored == 1, size - 1 - steps, steps)
    numbers = torch.arange(num_images)
    device = images.device
    return images[numbers[:, None, None].to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]


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
