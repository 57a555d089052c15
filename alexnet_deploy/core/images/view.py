"""A decoded image as RGB and upright, made part by part: a whole copy of a large one takes half a gigabyte."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two lie outside."""

# A quarter of a million pixels stay in the processor's cache on their way through three copies.
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
    """A loaded image, and what brings it to RGB and upright when a part of it is asked for."""

    image: Image.Image
    convert: Callable[[Image.Image], Image.Image] | None = None
    """Brings any part of the image to RGB; None where it is RGB."""
    orientation: int = 1
    """By EXIF: 1 to 8; other numbers mean nothing, and turn nothing."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        width, height = self.image.size
        return (height, width) if self.orientation in _SIDES_SWAPPED else (width, height)

    @property
    def is_plain(self) -> bool:
        """Whether the image is RGB and upright as it is, so that the whole of it takes no copy."""
        return self.convert is None and self.orientation not in _TRANSPOSITIONS

    def whole(self) -> Image.Image:
        """Return all of it; the image itself where it is plain."""
        return self.part((0, 0, *self.size))

    def part(self, box: Box) -> Image.Image:
        """Return what lies within the box, in RGB and upright; at its largest beside it are STRIP_PIXELS of copies."""
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
            # Not Image.crop, which holds each part to Pillow's own limit, that of the process.
            part = part._new(part.im.crop(source))
        rgb = part if self.convert is None else self.convert(part)
        method = _TRANSPOSITIONS.get(self.orientation)
        return rgb if method is None else rgb.transpose(method)

    def _source_box(self, box: Box) -> Box:
        """Return where the pixels of an upright box lie in the image as it is stored."""
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
    """Yield the box in parts of at most STRIP_PIXELS: whole rows, and parts of rows where one row is longer."""
    left, top, right, bottom = box
    across = min(right - left, STRIP_PIXELS)
    down = STRIP_PIXELS // across
    for y in range(top, bottom, down):
        for x in range(left, right, across):
            yield (x, y, min(x + across, right), min(y + down, bottom))
