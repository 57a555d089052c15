"""Images in memory as inputs: the bytes of a file, PIL images and arrays."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from PIL import Image

from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.images.decode import DecodeLimits, convert_image, decode_image, refuse_large
from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.model.preprocessing import ImagePolicy

ImageInMemory: TypeAlias = bytes | bytearray | memoryview | Image.Image | np.ndarray
"""The bytes of an image file; a PIL image; or an array, uint8 (H, W, 3) or (N, H, W, 3), RGB, upright."""


def images_in(held: ImageInMemory) -> Iterator[bytes | Image.Image | np.ndarray]:
    """Yield the single images of one input: N for an array (N, H, W, 3), else one.

    Bytes and arrays are copied, because the caller may reuse a buffer while its images are queued. A PIL image is not
    copied and must not change until its row is returned.
    """
    if isinstance(held, Image.Image):
        yield held
    elif isinstance(held, np.ndarray):
        for image in held if held.ndim == 4 else (held,):
            yield np.array(image, order="C")
    else:
        yield bytes(held)


def decode_in_memory(held: bytes | Image.Image | np.ndarray, policy: ImagePolicy, limits: DecodeLimits) -> np.ndarray:
    """Return one image as uint8 (256, 256, 3), RGB, upright; raises ImageError with the same codes as for a file."""
    if isinstance(held, bytes):
        return decode_image(held, policy, limits)
    if isinstance(held, Image.Image):
        return convert_image(held, policy, limits)
    height, width, _ = held.shape
    if not held.size:
        raise ImageError(ImageErrorCode.EMPTY, f"an array of {height} x {width} has no pixels")
    refuse_large(width, height, limits)
    return to_square(Image.fromarray(held), policy.resize)


def is_in_memory(value: object) -> bool:
    """Return whether a value has one of the types of ImageInMemory; its content is not checked."""
    return isinstance(value, bytes | bytearray | memoryview | Image.Image | np.ndarray)


def refuse_other_layouts(held: ImageInMemory) -> None:
    """Raise UsageError for an array that is not uint8 (H, W, 3) or (N, H, W, 3); that it is RGB cannot be checked."""
    if not isinstance(held, np.ndarray):
        return
    found = f"an array must be uint8 (H, W, 3) or (N, H, W, 3), RGB, got {held.dtype} {held.shape}"
    if held.dtype != np.uint8:
        hint = "; multiply 0..1 by 255, round, and convert with astype(np.uint8)" if held.dtype.kind == "f" else ""
        raise UsageError(found + hint)
    if held.ndim not in (3, 4) or held.shape[-1] != 3:
        raise UsageError(found + _hint(held))


def _hint(array: np.ndarray) -> str:
    if array.ndim in (3, 4) and array.shape[-3] == 3:
        axes = "(1, 2, 0)" if array.ndim == 3 else "(0, 2, 3, 1)"
        return f"; channels come last: array.transpose{axes}"
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 4)):
        return "; for grey or alpha pass a PIL image: Image.fromarray(array)"
    return ""
