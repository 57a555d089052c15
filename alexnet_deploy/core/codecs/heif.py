"""HEIC and HEIF, the format of iPhones, decoded by the optional pillow-heif (extra `heif`)."""

import io
from importlib import import_module
from typing import Any

from PIL import Image

from alexnet_deploy.core.codecs.formats import unread


class HeifFile:
    """A HEIF file whose header is read; libheif's exceptions for damaged files are not caught.

    `size` is the width and height from the header.
    """

    def __init__(self, data: bytes) -> None:
        """Read the header; raises ImageError (unsupported_format) if pillow-heif is not installed."""
        try:
            pillow_heif: Any = import_module("pillow_heif")
        except ImportError as error:
            raise unread("HEIC", "install pillow-heif (extra `heif`)") from error
        # Not registered with Pillow, which would change Image.open for the whole process. Deeper pixels are converted
        # to 8 bits.
        file = pillow_heif.HeifFile(io.BytesIO(data), convert_hdr_to_8bit=True)
        self._primary = file[file.primary_index]
        self.size: tuple[int, int] = self._primary.size

    def load(self) -> Image.Image:
        """Return the primary image, upright."""
        image: Image.Image = self._primary.to_pillow()
        # libheif has already rotated the image, so its EXIF orientation must be ignored.
        image.info.pop("exif", None)
        return image
