"""What a fetched picture is: decoded by our decoder, with its size, its digest and its fingerprint."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from alexnet_deploy.core.codecs.formats import format_of
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.images.decode import decode_pixels

_ENDINGS = {
    "AVIF": ".avif",
    "BMP": ".bmp",
    "GIF": ".gif",
    "HEIF": ".heic",
    "JPEG": ".jpg",
    "JPEG2000": ".jp2",
    "PNG": ".png",
    "PPM": ".ppm",
    "TIFF": ".tif",
    "WEBP": ".webp",
}

_CELLS = 8
_COLOUR_CELLS = 4

_DIFFERENCES = 4 * _CELLS * _CELLS
_SPLIT = _DIFFERENCES // 8

FINGERPRINT_BYTES = _SPLIT + 3 * _COLOUR_CELLS**2
"""32 bytes of differences, 48 of colours."""

# Cells that differ by less are equal: in flat areas, JPEG decides which one is brighter.
_NOISE = 3

# Measured on 280 photographs. Copies as JPEG of quality 50 and 20, as WebP of quality 50, and at a half and a third of
# the size differ from their originals by 17 bits and by 10 of 255 in a colour at most. Of the copies without the outer
# 2 %, 224 differ by 18 bits at most, all by 21 in a colour at most. Of 2,800 photographs, two that differ by 3 bits are
# the same; any two others differ by 46 bits at least. The colours tell flat drawings apart, whose bits may be equal.
MOST_BITS = 18
"""Largest number of differing bits, of 256, of two copies of a picture."""

MOST_COLOUR = 24
"""Largest difference of a colour of two copies of a picture, on 0..255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that can be decoded."""

    sha256: str
    """Digest of its bytes."""
    num_bytes: int
    """Number of its bytes."""
    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    ending: str
    """The usual ending of its true format."""
    fingerprint: bytes
    """See fingerprint_of."""


def look_at(data: bytes) -> Picture:
    """Decode the bytes of a file and describe the picture; raises ImageError."""
    name = format_of(data) if data else ""
    image = decode_pixels(data)
    return Picture(
        sha256=sha256(data),
        num_bytes=len(data),
        width=image.width,
        height=image.height,
        ending=_ENDINGS[name],
        fingerprint=fingerprint_of(image),
    )


def fingerprint_of(image: Image.Image) -> bytes:
    """Return 80 bytes that stay nearly the same when an RGB image is resized or saved again.

    The first 32 say, for 8 x 8 cells, whether the next cell to the right and the next one below are brighter, and
    whether they are darker; the other 48 are the colours of 4 x 4 cells, RGB. Source of the first part: the difference
    hash of N. Krawetz, 2013, here in both directions and with equality.
    """
    cells = np.asarray(image.convert("L").resize((_CELLS + 1, _CELLS + 1), Image.Resampling.BOX), np.int16)
    steps = np.stack([cells[:-1, 1:], cells[1:, :-1]]) - cells[:-1, :-1]
    colours = np.asarray(image.resize((_COLOUR_CELLS, _COLOUR_CELLS), Image.Resampling.BOX), np.uint8)
    return np.packbits(np.stack([steps > _NOISE, steps < -_NOISE])).tobytes() + colours.tobytes()


class Fingerprints:
    """Fingerprints that were kept, in order; finds the first one that is nearly equal to another."""

    def __init__(self) -> None:
        """Begin with none."""
        self._num_kept = 0
        self._bits = np.empty((1024, _SPLIT // 8), np.uint64)
        self._colours = np.empty((1024, FINGERPRINT_BYTES - _SPLIT), np.int16)

    def keep(self, fingerprint: bytes) -> None:
        """Add one; they are numbered from 0."""
        if self._num_kept == len(self._bits):
            self._bits = np.concatenate([self._bits, np.empty_like(self._bits)])
            self._colours = np.concatenate([self._colours, np.empty_like(self._colours)])
        self._bits[self._num_kept], self._colours[self._num_kept] = _parts(fingerprint)
        self._num_kept += 1

    def nearest(self, fingerprint: bytes) -> tuple[int, int] | None:
        """Return the number of the first kept fingerprint of the same picture, and of the differing bits, or None.

        Takes time in proportion to the number of kept ones.
        """
        bits, colours = _parts(fingerprint)
        differing = np.bitwise_count(self._bits[: self._num_kept] ^ bits).sum(axis=1)
        for number in np.flatnonzero(differing <= MOST_BITS):
            if np.abs(self._colours[number] - colours).max() <= MOST_COLOUR:
                return int(number), int(differing[number])
        return None


def _parts(fingerprint: bytes) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(fingerprint[:_SPLIT], "<u8"), np.frombuffer(fingerprint[_SPLIT:], np.uint8).astype(np.int16)
