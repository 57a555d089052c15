"""Programs that decode images, each with one fault, as people write them with OpenCV, NumPy or Pillow.

    python wrong_programs.py FAULT <paths

They share no code with alexnet_deploy.pipeline.golden, which must name the fault.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from alexnet_deploy.core.images.decode import decode_pixels, read_image
from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP


def upright(path):
    """The right pixels in their own size, RGB."""
    return np.asarray(decode_pixels(Path(path).read_bytes()))


def central(pixels):
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def square(pixels):
    return to_square(Image.fromarray(np.ascontiguousarray(pixels)), "shorter-side")


def linear(path):
    return cv2.resize(central(upright(path)), (256, 256), interpolation=cv2.INTER_LINEAR)


def opencv(path):
    """Everything that cv2.imread gets wrong, and INTER_LINEAR."""
    image = cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return cv2.resize(central(image), (256, 256), interpolation=cv2.INTER_LINEAR)


def area(path):
    return cv2.resize(central(upright(path)), (256, 256), interpolation=cv2.INTER_AREA)


def bgr(path):
    return cv2.cvtColor(read_image(path, SHORTER_SIDE), cv2.COLOR_RGB2BGR)


def warp(path):
    return read_image(path, WARP)


def no_exif(path):
    """Orientation is ignored where the file has one; the other files are right."""
    with Image.open(path) as image:
        if image.getexif().get(0x0112, 1) == 1:
            return read_image(path, SHORTER_SIDE)
        return square(np.asarray(image.convert("RGB")))


def crop(path):
    """The offset is rounded to even or up, not down."""
    pixels = upright(path)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return square(pixels[top : top + side, left : left + side])


def resized_first(path):
    """As torchvision's Resize and CenterCrop."""
    image = Image.fromarray(upright(path))
    width, height = (int(256 * length / min(image.size)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 256) / 2), round((height - 256) / 2)
    return np.asarray(image.crop((left, top, left + 256, top + 256)))


def gamma(path):
    """Resized in linear light, with a plain exponent instead of sRGB's curve."""
    light = central((upright(path) / 255.0) ** 2.2).astype(np.float32)
    planes = [Image.fromarray(np.ascontiguousarray(light[..., c])) for c in range(3)]
    small = [np.asarray(plane.resize((256, 256), Image.Resampling.BILINEAR)) for plane in planes]
    return np.clip(255 * np.stack(small, axis=-1) ** (1 / 2.2) + 0.5, 0, 255).astype(np.uint8)


def darker(path):
    return cv2.LUT(read_image(path, SHORTER_SIDE), (255 * (np.arange(256) / 255) ** 2.2).astype(np.uint8))


def limited(path):
    """As from a video decoder: Y 16..235, CbCr 16..240."""
    if not path.endswith(".jpg") or "cmyk" in path:
        return read_image(path, SHORTER_SIDE)
    y, cr, cb = (plane.astype(float) for plane in cv2.split(cv2.cvtColor(upright(path), cv2.COLOR_RGB2YCrCb)))
    y, cr, cb = 1.164 * (y - 16), cr - 128, cb - 128
    rgb = np.stack([y + 1.596 * cr, y - 0.391 * cb - 0.813 * cr, y + 2.018 * cb], axis=-1)
    return square(np.clip(rgb, 0, 255).astype(np.uint8))


def black(path):
    with Image.open(path) as image:
        if not image.has_transparency_data:
            return read_image(path, SHORTER_SIDE)
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        return square((rgba[..., :3] * rgba[..., 3:] / 255).astype(np.uint8))


def cut(path):
    with Image.open(path) as image:
        if not image.mode.startswith("I;16"):
            return read_image(path, SHORTER_SIDE)
        return square(np.stack([(np.asarray(image) >> 8).astype(np.uint8)] * 3, axis=-1))


def posterized(path):
    """A fault that is not in the list: only the upper three bits are kept."""
    return read_image(path, SHORTER_SIDE) & 0xE0


def one_off(path):
    """Every value is one too large."""
    return np.minimum(read_image(path, SHORTER_SIDE), 254) + 1


def two_faults(path):
    """Palettes and alpha on black, and EXIF ignored."""
    return black(path) if path.endswith(".png") else no_exif(path)


def right(path):
    return read_image(path, SHORTER_SIDE)


def right_warp(path):
    return read_image(path, WARP)


def main(fault):
    for line in sys.stdin:
        sys.stdout.buffer.write(np.ascontiguousarray(globals()[fault](line.rstrip("\n"))).tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
