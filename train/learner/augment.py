"""Augmentation: random crops, mirrors and colours, for a whole batch on its device.

The paper uses crops of the input size, mirrors and PCA colour noise (Krizhevsky et al. 2012, section 4.1); the rest is
newer. All random numbers are drawn on the CPU, so devices agree. N images, S side of the crop in pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, RGB, Preprocessing

# Weights of red, green and blue in grey (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)

_ERASED_AREA = (0.02, 0.25)
_ERASED_ASPECT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some images of a batch; random numbers are drawn for the whole batch, so a part is augmented as in the whole."""

    num_images: int
    """Number of images in the batch."""
    rows: slice
    """The images of this part."""


def whole(num_images: int) -> Part:
    """Return the part that is the whole batch."""
    return Part(num_images=num_images, rows=slice(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRange:
    """Limits of random resized crops."""

    min_area: float
    """Smallest share of the image's area, over 0, at most 1."""
    max_aspect: float = 1.0
    """Largest aspect ratio, wide or tall."""
    max_rotation: float = 0.0
    """Largest angle in either direction, in degrees."""
    mirror: bool = True
    """Whether a crop is mirrored with probability 1/2."""
    is_random: bool = True
    """Whether the place of a crop of the input size is random; else it is the centre, as in the centre view."""


WHOLE_RANGE = CropRange(min_area=1.0)
"""Crops of the input size, at random places and mirrored: the paper's."""


def crop_and_mirror(
    images: torch.Tensor, size: int, generator: torch.Generator, part: Part, limits: CropRange = WHOLE_RANGE
) -> torch.Tensor:
    """Return a size x size crop of each image, at a random place and mirrored with probability 1/2: uint8 (N, S, S, 3).

    `images` are that `part` of a batch, uint8 (N, 256, 256, 3) on any device. Of the limits, `mirror` and `is_random`
    apply.
    """
    corners = torch.randint(0, IMAGE_SIZE - size + 1, (2, part.num_images, 1), generator=generator)[:, part.rows]
    mirrored = torch.randint(0, 2, (part.num_images, 1), generator=generator)[part.rows]
    # Drawn in any case, so that the numbers that follow are the same.
    if not limits.is_random and not limits.mirror:
        start = (IMAGE_SIZE - size) // 2
        return images[:, start : start + size, start : start + size]
    if not limits.is_random:
        corners = torch.full_like(corners, (IMAGE_SIZE - size) // 2)
    if not limits.mirror:
        mirrored = torch.zeros_like(mirrored)
    if images.device.type == "cpu":
        # Copies of rows: 0.1 ms for an image, where one index for each pixel took 2 ms.
        crops = images.new_empty((len(images), size, size, 3))
        for crop, image, top, left, is_mirrored in zip(
            crops, images, *corners[..., 0].tolist(), mirrored[:, 0].tolist(), strict=True
        ):
            part_of_image = image[top : top + size, left : left + size]
            crop.copy_(part_of_image.flip(1) if is_mirrored else part_of_image)
        return crops
    return _by_index(images, size, corners, mirrored)


def _by_index(images: torch.Tensor, size: int, corners: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Return crops by one index for each pixel, which is one operation for the whole batch on a GPU."""
    steps = torch.arange(size)
    rows = corners[0] + steps
    columns = corners[1] + torch.where(mirrored == 1, size - 1 - steps, steps)
    numbers = torch.arange(len(images))
    device = images.device
    return images[numbers[:, None, None].to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]


def scaled_crop_and_mirror(
    images: torch.Tensor, size: int, limits: CropRange, generator: torch.Generator, part: Part
) -> torch.Tensor:
    """Return a random rectangle of each image resized to size x size, mirrored with probability 1/2.

    Returns float32 (N, S, S, 3). `images` are that `part` of a batch, uint8 (N, 256, 256, 3) on any device. The share
    of the area is uniform over `min_area` to 1, the logarithm of the aspect ratio uniform over its range; a side longer
    than the image is cut to it; the position is uniform inside the image. The rectangle is then rotated about its
    centre; pixels outside the image are its reflection. Sampling is bilinear between pixel centres.
    """
    draws = torch.rand((5, part.num_images), generator=generator)[:, part.rows]
    mirrored = torch.randint(0, 2, (part.num_images,), generator=generator)[part.rows]
    if not limits.mirror:
        mirrored = torch.zeros_like(mirrored)
    if not len(images):
        # affine_grid does not accept an empty batch.
        return images.new_empty((0, size, size, 3), dtype=torch.float32)
    areas, aspects, angles, tops, lefts = draws
    heights, widths = (
        sides.clamp(max=1) for sides in _rectangles(areas, aspects, (limits.min_area, 1.0), limits.max_aspect)
    )
    # In the units of affine_grid: an image reaches from -1 to 1.
    middles_y, middles_x = (2 * tops - 1) * (1 - heights), (2 * lefts - 1) * (1 - widths)
    turns = math.radians(limits.max_rotation) * (2 * angles - 1)
    steps_x = torch.where(mirrored == 1, -widths, widths)
    rows = [
        [steps_x * turns.cos(), -heights * turns.sin(), middles_x],
        [steps_x * turns.sin(), heights * turns.cos(), middles_y],
    ]
    places = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = functional.affine_grid(places, [len(images), 3, size, size], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    crops = functional.grid_sample(pixels, grid.to(images.device), padding_mode="reflection", align_corners=False)
    return crops.permute(0, 2, 3, 1)


def standardised(crops: torch.Tensor, preprocessing: Preprocessing, shift: torch.Tensor | None = None) -> torch.Tensor:
    """Return the network's input, float32 (N, 3, S, S) in channels-last memory, from RGB pixels, float32 (N, S, S, 3).

    The values are those of `preprocess`; `shift`, float32 (N, 3), is added to all pixels of each image first. Computed
    row by row: 0.6 ms for an image, where `preprocess` and a copy to channels-last took 3 ms.
    """
    num_images, height, width, _ = crops.shape
    rows = crops.reshape(num_images, height, 3 * width)
    if shift is not None:
        rows = rows + shift.to(crops.device).repeat(1, width)[:, None, :]
    mean, scale = (
        torch.tensor(values, device=crops.device).repeat(width) for values in (preprocessing.mean, preprocessing.scale)
    )
    pixels = ((rows - mean) * scale).view(crops.shape)
    order = list(preprocessing.channel_indices)
    return (pixels if order == [0, 1, 2] else pixels[..., order]).permute(0, 3, 1, 2)


def color_axes(covariance: np.ndarray) -> torch.Tensor:
    """Return the principal axes of RGB scaled by their standard deviations: float32 (3, 3), axes in columns.

    The paper's text multiplies by the eigenvalues; the authors' code and this function by their square roots, the
    standard deviations: eigenvalues would give noise of about 1,483 grey levels.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    return torch.from_numpy((eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))).astype(np.float32))


def color_shift(axes: torch.Tensor, deviation: float, generator: torch.Generator, part: Part) -> torch.Tensor:
    """Return the colour noise of each image, added to all its pixels, RGB on 0..255: float32 (N, 3), on the CPU."""
    return (deviation * torch.randn((part.num_images, 3), generator=generator) @ axes.T)[part.rows]


def jitter_colors(
    crops: torch.Tensor, mean: RGB, greatest: float, generator: torch.Generator, part: Part
) -> torch.Tensor:
    """Return the images, float32 (N, S, S, 3), RGB, with saturation, contrast and brightness changed, in this order.

    Each multiplies by its own random factor, uniform over 1 - greatest to 1 + greatest: saturation the distance from
    the pixel's grey, contrast the distance from `mean`, brightness the pixel. Results are not clipped to 0..255.
    """
    saturation, contrast, brightness = 1 + greatest * (
        2 * torch.rand((3, part.num_images), generator=generator)[:, part.rows, None, None] - 1
    )
    to_grey = torch.tensor(_GREY).expand(3, 3)
    mixed = contrast * brightness * (to_grey + saturation * (torch.eye(3) - to_grey))
    shift = brightness * (1 - contrast) * torch.tensor(mean)
    pixels = crops.flatten(1, 2)
    return torch.baddbmm(shift.to(crops.device), pixels, mixed.mT.to(crops.device)).view_as(crops)


def erase(views: torch.Tensor, share: float, generator: torch.Generator, part: Part) -> torch.Tensor:
    """Return the views, (N, 3, S, S), with a random rectangle set to 0, the mean, in a `share` of them.

    The rectangle is inside the view, covers 2 to 25 % of it, and has an aspect ratio of up to 1 : 3 (Zhong et al. 2017;
    they use up to 40 %).
    """
    draws = torch.rand((5, part.num_images), generator=generator)[:, part.rows, None]
    chosen, areas, aspects, tops, lefts = draws
    heights, widths = _rectangles(areas, aspects, _ERASED_AREA, _ERASED_ASPECT)
    # Pixel centres along a side of the view, 0..1.
    places = (torch.arange(views.shape[-1]) + 0.5) / views.shape[-1]
    rows, columns = (
        (places >= start * (1 - length)) & (places < start * (1 - length) + length)
        for start, length in ((tops, heights), (lefts, widths))
    )
    erased = rows[:, :, None] & columns[:, None, :] & (chosen < share)[:, :, None]
    return views.masked_fill(erased[:, None].to(views.device), 0.0)


def _rectangles(
    areas: torch.Tensor, aspects: torch.Tensor, area_range: tuple[float, float], max_aspect: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return heights and widths of rectangles, as shares of a square's side, from two random numbers each, 0..1."""
    least, most = area_range
    sides = torch.sqrt(least + (most - least) * areas)
    stretch = torch.exp(math.log(max_aspect) * (aspects - 0.5))
    return sides / stretch, sides * stretch
