"""Wrong ways to resize and crop an image to 256 x 256, as other libraries and programs do it."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ResizePolicy

# H height, W width, C channels

Box = tuple[float, float, float, float]
"""Left, top, right, bottom of the part that becomes the square, in pixels; right and bottom are exclusive."""

_SIZE = (IMAGE_SIZE, IMAGE_SIZE)


def box_of(pixels_HWC: np.ndarray, resize: ResizePolicy) -> Box:
    """Return the part of an image that the policy resizes."""
    height, width, _ = pixels_HWC.shape
    return (0, 0, width, height) if resize == "warp" else _central(width, height)


def four_neighbours(pixels_HWC: np.ndarray, box: Box) -> np.ndarray:
    """Return the bilinear mean of the four nearest pixels, with pixel centres at halves, as OpenCV's INTER_LINEAR."""
    left, top, right, bottom = box
    height, width, _ = pixels_HWC.shape
    x0, x1, u = _neighbours(left, right, width)
    y0, y1, v = _neighbours(top, bottom, height)
    pixels = pixels_HWC.astype(np.float64)
    u, v = u[None, :, None], v[:, None, None]
    above = pixels[y0][:, x0] * (1 - u) + pixels[y0][:, x1] * u
    below = pixels[y1][:, x0] * (1 - u) + pixels[y1][:, x1] * u
    return _rounded(above * (1 - v) + below * v)


def cropped_four_neighbours(image: Image.Image) -> np.ndarray:
    """Return the same of the central square alone: at its edges, its own pixels are repeated."""
    pixels = np.asarray(image.crop(_central(*image.size)))
    return four_neighbours(pixels, (0, 0, pixels.shape[1], pixels.shape[0]))


def nearest(pixels_HWC: np.ndarray, box: Box) -> np.ndarray:
    """Return the pixel at the start of each cell, as OpenCV's INTER_NEAREST."""
    left, top, right, bottom = box
    places = np.arange(IMAGE_SIZE)
    columns = np.floor(left + places * (right - left) / IMAGE_SIZE).astype(int)
    rows = np.floor(top + places * (bottom - top) / IMAGE_SIZE).astype(int)
    chosen: np.ndarray = pixels_HWC[rows][:, columns]
    return chosen


def by_area(pixels_HWC: np.ndarray, box: Box) -> np.ndarray:
    """Return the mean of the source area that each pixel covers, as OpenCV's INTER_AREA."""
    left, top, right, bottom = box
    rows_HWC = _means(pixels_HWC.astype(np.float64), top, bottom)
    return _rounded(_means(rows_HWC.transpose(1, 0, 2), left, right).transpose(1, 0, 2))


def by_filter(resample: Image.Resampling) -> Callable[[np.ndarray, Box], np.ndarray]:
    """Return a function that resizes with another antialiased filter of Pillow."""
    return lambda pixels_HWC, box: np.asarray(Image.fromarray(pixels_HWC).resize(_SIZE, resample, box=box))


def in_linear_light(pixels_HWC: np.ndarray, box: Box) -> np.ndarray:
    """Return the antialiased mean of light intensities instead of sRGB values. Source: IEC 61966-2-1."""
    value = pixels_HWC / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)
    bilinear = Image.Resampling.BILINEAR
    channels = [
        np.asarray(Image.fromarray(plane).resize(_SIZE, bilinear, box=box)) for plane in light.transpose(2, 0, 1)
    ]
    mean = np.stack(channels, axis=-1)
    curved = 1.055 * np.maximum(mean, 0.0031308) ** (1 / 2.4) - 0.055
    return _rounded(255 * np.where(mean <= 0.0031308, 12.92 * mean, curved))


def vertically_first(pixels_HWC: np.ndarray, box: Box) -> np.ndarray:
    """Return the right filter with its passes in the other order, which differs in rounding alone."""
    turned, (left, top, right, bottom) = Image.fromarray(pixels_HWC.transpose(1, 0, 2)), box
    columns = turned.resize((IMAGE_SIZE, turned.height), Image.Resampling.BILINEAR, box=(top, 0, bottom, turned.height))
    both = columns.resize(_SIZE, Image.Resampling.BILINEAR, box=(0, left, IMAGE_SIZE, right))
    return np.asarray(both).transpose(1, 0, 2)


def resized_first(
    rounding: Literal["down", "nearest"], *, antialias: bool = True
) -> Callable[[Image.Image], np.ndarray]:
    """Return a function that resizes the whole image, its longer side to whole pixels, and cuts out the middle."""

    def resize(image: Image.Image) -> np.ndarray:
        half = 0.5 if rounding == "nearest" else 0.0
        sizes = [math.floor(length * IMAGE_SIZE / min(image.size) + half) for length in image.size]
        # The part of the source that the middle of the resized image shows: no image of 256 x 256,000 is made.
        left, top, right, bottom = (
            ((size - IMAGE_SIZE) // 2 + end) * length / size
            for end in (0, IMAGE_SIZE)
            for size, length in zip(sizes, image.size, strict=True)
        )
        if not antialias:
            return four_neighbours(np.asarray(image), (left, top, right, bottom))
        return np.asarray(image.resize(_SIZE, Image.Resampling.BILINEAR, box=(left, top, right, bottom)))

    return resize


def offset_rounded_up(image: Image.Image) -> np.ndarray | None:
    """Return the square whose offset is rounded up instead of down; None if its offset is a whole number."""
    side = min(image.size)
    if not any((length - side) % 2 for length in image.size):
        return None
    left, top = (math.ceil((length - side) / 2) for length in image.size)
    return np.asarray(image.resize(_SIZE, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)))


def moved_by_one(image: Image.Image) -> np.ndarray:
    """Return the right pixels, moved by one pixel to the left and to the top; the last row and column are repeated."""
    places = np.minimum(np.arange(IMAGE_SIZE) + 1, IMAGE_SIZE - 1)
    return to_square(image, "shorter-side")[places][:, places]


def cut_out(image: Image.Image) -> np.ndarray:
    """Return the central square, cut out and then resized."""
    return to_square(image.crop(_central(*image.size)), "shorter-side")


def _central(width: int, height: int) -> tuple[int, int, int, int]:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def _neighbours(start: float, end: float, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each place of the result the two nearest source places, and the weight of the second."""
    places = start + (np.arange(IMAGE_SIZE) + 0.5) * (end - start) / IMAGE_SIZE - 0.5
    first = np.floor(places).astype(int)
    return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1), places - first


def _means(values: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the means of 256 equal parts of start..end, along the first axis of (L, ., .)."""
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
    edges = start + np.arange(IMAGE_SIZE + 1) * (end - start) / IMAGE_SIZE
    whole = np.minimum(edges.astype(int), len(values) - 1)
    up_to_edges = sums[whole] + values[whole] * (edges - whole)[:, None, None]
    means: np.ndarray = np.diff(up_to_edges, axis=0) * IMAGE_SIZE / (end - start)
    return means


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
