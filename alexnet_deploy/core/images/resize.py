"""A decoded image to 256 x 256: Pillow's antialiased bilinear filter, always across first and then down.

Both policies run the two passes apart, each rounded to 8 bits. One call of Pillow's `resize` leaves their order to
Pillow, which chose another one in version 13 and so changed the last bit of one photograph in seven. An image more than
100 times as tall as it is wide goes down first, as in all earlier versions: across first would hold 256 pixels for
each of its rows.
"""

import math

import numpy as np
from PIL import Image

from alexnet_deploy.core.images.view import STRIP_PIXELS, RgbView
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ResizePolicy

_BILINEAR = Image.Resampling.BILINEAR


def to_square(image: Image.Image | RgbView, resize: ResizePolicy) -> np.ndarray:
    """Return a decoded image, which is RGB or made so part by part, as uint8 (256, 256, 3); it is the caller's."""
    view = image if isinstance(image, RgbView) else RgbView(image=image)
    width, height = view.size
    left, top, right, bottom = _source_box(width, height, resize)
    if height > max(100 * width, IMAGE_SIZE):
        columns = _down(view, (top, bottom))
        return np.array(columns.resize((IMAGE_SIZE, IMAGE_SIZE), _BILINEAR, box=(left, 0, right, IMAGE_SIZE)))
    # At a scale of 1, whole rows stay as they are. The filter's centres are multiples of 1/512 of a pixel and exact:
    # moved by whole rows, it gives the same bits.
    first, last = _reach(top, bottom, height)
    rows = _across(view, (left, right), (first, last))
    return np.array(rows.resize((IMAGE_SIZE, IMAGE_SIZE), _BILINEAR, box=(0, top - first, IMAGE_SIZE, bottom - first)))


def _across(view: RgbView, columns: tuple[int, int], rows: tuple[int, int]) -> Image.Image:
    """Return the columns brought to 256 in each of the rows, which do not touch each other: strip by strip."""
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


def _down(view: RgbView, rows: tuple[int, int]) -> Image.Image:
    """Return the rows brought to 256 in each of the columns, which do not touch each other: strip by strip."""
    (top, bottom), (width, height) = rows, view.size
    step = width if view.is_plain else max(1, STRIP_PIXELS // height)
    found = Image.new("RGB", (width, IMAGE_SIZE))
    for start in range(0, width, step):
        end = min(start + step, width)
        strip = view.part((start, 0, end, height))
        found.paste(strip.resize((end - start, IMAGE_SIZE), _BILINEAR, box=(0, top, end - start, bottom)), (start, 0))
    return found


def _source_box(width: int, height: int, resize: ResizePolicy) -> tuple[int, int, int, int]:
    if resize == "warp":
        return (0, 0, width, height)
    # Resizing the central square, not cropping the resized whole: no rounding of the longer side, and an image
    # of 1 x 1,000,000 does not become one of 256 x 256,000,000 on the way. Whole pixels: half of one would blur
    # an image of 341 x 256, which needs no resizing.
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def _reach(start: int, end: int, length: int) -> tuple[int, int]:
    """Return the first row that the filter may read to bring start..end to 256, and the one after the last."""
    scale = (end - start) / IMAGE_SIZE
    # The filter is two pixels of the coarser grid wide, and half a pixel of the result lies inside start..end.
    beyond = math.ceil(max(scale, 1.0) - scale / 2) + 1
    return max(0, start - beyond), min(length, end + beyond)
