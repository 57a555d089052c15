"""Photographs enlarged to the size of a camera's, with noise so that the files weigh what a camera's weigh."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

NOISE = 5.0
"""Standard deviation, in levels of 0..255."""


def enlarged(path: Path, size: tuple[int, int], seed: int) -> bytes:
    """Return the photograph, enlarged to `size`, as a JPEG of quality 90, 4:2:0."""
    with Image.open(path) as stored:
        image = stored.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed).standard_normal((image.height, image.width, 1), np.float32) * NOISE
    file = io.BytesIO()
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=2)
    return file.getvalue()
