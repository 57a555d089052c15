"""Print Pillow's version and, for each drawn image and policy, the digest of its 256 x 256 pixels.

    python resize_digests.py

A separate program, so that the same images can be resized by another version of Pillow: see
tests/core/images/test_resize.py.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import PIL
from PIL import Image

from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.model.preprocessing import ResizePolicy

POLICIES: tuple[ResizePolicy, ...] = ("shorter-side", "warp")

# Pillow 13 resizes vertically first from the third image on; Pillow 12 if the height is over 100 times the width.
SIZES = (
    *((256, 256), (341, 256), (256, 341), (257, 256), (500, 375), (375, 500), (300, 801), (1023, 97), (97, 1023)),
    *((1, 1), (2, 1), (255, 257), (640, 3), (3, 300), (3, 301), (1, 20_000), (20_000, 1), (1100, 1467)),
)


def drawn(width: int, height: int) -> Image.Image:
    """An image in which every pixel differs from its neighbours, computed with integers only."""
    rows, columns, channels = np.ogrid[:height, :width, :3]
    mixed = rows * 7919 + columns * 104_729 + channels * 1_299_709 + rows * columns * 31
    return Image.fromarray((mixed % 65_521 % 256).astype(np.uint8))


def digests() -> Iterator[tuple[str, str]]:
    for width, height in SIZES:
        for resize in POLICIES:
            pixels = to_square(drawn(width, height), resize)
            yield f"{width}x{height} {resize}", hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    print(PIL.__version__)
    for name, digest in digests():
        print(name, digest)
