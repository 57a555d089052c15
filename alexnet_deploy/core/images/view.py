"""A decoded image, converted to RGB and rotated upright part by part: a full copy of a large one needs 0.5 GB."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

T = TypeVar("T")

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are exclusive."""

FloatBox = tuple[float, float, float, float]
"""The same, in parts of pixels."""

# Three copies of a quarter of a million pixels fit in the processor's cache.
STRIP_PIXELS = 2**18

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED, _ACROSS_REVERSED, _DOWN_REVERSED = (5, 6, 7, 8), (2, 3, 7, 8), (3, 4, 6, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class RgbView:
    """A loaded image whose parts are converted to RGB and rotated upright on request."""

    image: Image.Image
    convert: Callable[[Image.Image], Image.Image] | None = None
    """Converts any part of the image to RGB; None if it is RGB already."""
    orientation: int = 1
    """EXIF orientation, 1 to 8; other values are ignored."""
    scale: int = 1
    """Pixels of the file to one of `image`, in each direction."""
    stored_size: tuple[int, int] | None = None
    """Width and height that the file states, if it was decoded at a smaller scale; None if it was not."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return self._turned(self.image.size)

    @property
    def full_size(self) -> tuple[int, int]:
        """Width and height of the upright image at its full scale."""
        return self._turned(self.stored_size or self.image.size)

    def place_of(self, box: Box) -> FloatBox:
        """Return the place in this view of a box of the upright image at its full scale."""
        # The last column and row hold a part of a pixel if the size is no multiple of the scale. They come first in an
        # image that is turned.
        columns, rows = (
            length - full / self.scale
            for length, full in zip(self.image.size, self.stored_size or self.image.size, strict=True)
        )
        x, y = self._turned(
            (
                columns if self.orientation in _ACROSS_REVERSED else 0.0,
                rows if self.orientation in _DOWN_REVERSED else 0.0,
            )
        )
        left, top, right, bottom = (place / self.scale for place in box)
        return (left + x, top + y, right + x, bottom + y)

    def _turned(self, pair: tuple[T, T]) -> tuple[T, T]:
        """Return a pair of numbers for the stored columns and rows, for the upright ones."""
        return (pair[1], pair[0]) if self.orientation in _SIDES_SWAPPED else pair

    @property
    def is_plain(self) -> bool:
        """Whether the image is already RGB and upright, so that no copy is needed."""
        return self.convert is None and self.orientation not in _TRANSPOSITIONS

    def whole(self) -> Image.Image:
        """Return the whole image; the image itself if it is plain."""
        return self.part((0, 0, *self.size))

    def part(self, box: Box) -> Image.Image:
        """Return the content of the box, RGB and upright; temporary copies hold at most STRIP_PIXELS."""
        left, top, right, bottom = box
        if self.is_plain or (right - left) * (bottom - top) <= STRIP_PIXELS:
            return self._made(box)
        canvas = Image.new("RGB", (right - left, bottom - top))
        for piece in pieces(box):
            canvas.paste(self._made(piece), (piece[0] - left, piece[1] - top))
        return canvas

    def _made(self, box: Box) -> Image.Image:
        source = self._source_box(box)
        part = self.image
        if source != (0, 0, *part.size):
            # Not Image.crop, which applies Pillow's process-wide size limit to each part.
            part = part._new(part.im.crop(source))
        rgb = part if self.convert is None else self.convert(part)
        method = _TRANSPOSITIONS.get(self.orientation)
        return rgb if method is None else rgb.transpose(method)

    def _source_box(self, box: Box) -> Box:
        """Return the box of the stored image that holds the pixels of an upright box."""
        left, top, right, bottom = box
        width, height = self.image.size
        if self.orientation in _SIDES_SWAPPED:
            left, top, right, bottom = top, left, bottom, right
        if self.orientation in _ACROSS_REVERSED:
            left, right = width - right, width - left
        if self.orientation in _DOWN_REVERSED:
            top, bottom = height - bottom, height - top
        return (left, top, right, bottom)


def pieces(box: Box) -> Iterator[Box]:
    """Yield the box in parts of at most STRIP_PIXELS: whole rows, or parts of rows if one row is longer."""
    left, top, right, bottom = box
    across = min(right - left, STRIP_PIXELS)
    down = STRIP_PIXELS // across
    for y in range(top, bottom, down):
        for x in range(left, right, across):
            yield (x, y, min(x + across, right), min(y + down, bottom))
