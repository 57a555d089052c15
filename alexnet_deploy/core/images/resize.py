"""Resize a decoded image to 256 x 256: Pillow's antialiased bilinear filter, horizontal pass first, then vertical.

Both policies run the two passes separately, each rounded to 8 bits. A single call of Pillow's `resize` leaves their
order to Pillow, whose version 13 changed it and so the last bit of one photograph in seven. An image more than 100
times as tall as wide is resized vertically first, as in all earlier versions: horizontally first would need 256 pixels
for each of its rows.

A JPEG that was decoded at a smaller scale is resized from the same place: its box is in parts of its pixels.
"""

import math

import numpy as np
from PIL import Image

from alexnet_deploy.core.images.view import STRIP_PIXELS, Box, RgbView
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ResizePolicy

_BILINEAR = Image.Resampling.BILINEAR


def to_square(image: Image.Image | RgbView, resize: ResizePolicy) -> np.ndarray:
    """Return a decoded image, RGB or an RgbView, as uint8 (256, 256, 3); the caller owns the array."""
    view = image if isinstance(image, RgbView) else RgbView(image=image)
    width, height = view.size
    left, top, right, bottom = view.place_of(_source_box(*view.full_size, resize))
    if height > max(100 * width, IMAGE_SIZE):
        columns = _down(view, (top, bottom))
        return np.array(columns.resize((IMAGE_SIZE, IMAGE_SIZE), _BILINEAR, box=(left, 0, right, IMAGE_SIZE)))
    # At a scale of 1, whole rows are unchanged. The filter's centres are exact multiples of 1/512 of a pixel, so moving
    # it by whole rows is bit-identical.
    first, last = _reach(top, bottom, height)
    rows = _across(view, (left, right), (first, last))
    return np.array(rows.resize((IMAGE_SIZE, IMAGE_SIZE), _BILINEAR, box=(0, top - first, IMAGE_SIZE, bottom - first)))


def _across(view: RgbView, columns: tuple[float, float], rows: tuple[int, int]) -> Image.Image:
    """Return the rows, each resized to 256 columns; rows are independent, so it works strip by strip."""
    (left, right), (first, last), width = columns, rows, view.size[0]
    if view.is_plain:
        return view.image.resize((IMAGE_SIZE, last - first), _BILINEAR, box=(left, first, right, last))
    step = max(1, STRIP_PIXELS // width)
    found = Image.new("RGB", (IMAGE_SIZE, last - first))
    for start in range(first, last, step):
        end = min(start + step, last)
        strip = view.part((0, start, width, end))
        found.paste(
            strip.resize((IMAGE_SIZE, end - start), _BILINEAR, box=(left, 0, right, end - start)), (0, start - first)
        )
    return found


def _down(view: RgbView, rows: tuple[float, float]) -> Image.Image:
    """Return the columns, each resized to 256 rows; columns are independent, so it works strip by strip."""
    (top, bottom), (width, height) = rows, view.size
    step = width if view.is_plain else max(1, STRIP_PIXELS // height)
    found = Image.new("RGB", (width, IMAGE_SIZE))
    for start in range(0, width, step):
        end = min(start + step, width)
        strip = view.part((start, 0, end, height))
        found.paste(strip.resize((end - start, IMAGE_SIZE), _BILINEAR, box=(0, top, end - start, bottom)), (start, 0))
    return found


def _source_box(width: int, height: int, resize: ResizePolicy) -> Box:
    if resize == "warp":
        return (0, 0, width, height)
    # Resize the central square instead of cropping the resized image: the longer side is not rounded, and an image of
    # 1 x 1,000,000 does not grow to 256 x 256,000,000. Offsets are whole pixels: half a pixel would blur an image of
    # 341 x 256, which needs no resizing.
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def _reach(start: float, end: float, length: int) -> tuple[int, int]:
    """Return the range of rows, end excluded, that the filter may read to resize start..end to 256."""
    scale = (end - start) / IMAGE_SIZE
    # The filter is two pixels of the coarser grid wide, and its outermost centre is half an output pixel inside.
    beyond = math.ceil(max(scale, 1.0) - scale / 2) + 1
    return max(0, math.floor(start) - beyond), min(length, math.ceil(end) + beyond)
