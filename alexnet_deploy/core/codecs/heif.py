"""HEIC and HEIF, what iPhones write, by pillow-heif (the extra `heif`), which need not be installed."""

import io
from importlib import import_module
from typing import Any

from PIL import Image

from alexnet_deploy.core.codecs.formats import unread


class HeifFile:
    """A HEIF file whose header is read; what libheif raises on damaged ones goes through.

    `size` is the width and height that the header promises.
    """

    def __init__(self, data: bytes) -> None:
        """Read the header; raises ImageError (unsupported_format) where pillow-heif is not installed."""
        try:
            pillow_heif: Any = import_module("pillow_heif")
        except ImportError as error:
            raise unread("HEIC", "install pillow-heif, which is the extra `heif`") from error
        # Not registered with Pillow: that would change what others in this process open. Deeper pixels come in 8 bits.
        file = pillow_heif.HeifFile(io.BytesIO(data), convert_hdr_to_8bit=True)
        self._primary = file[file.primary_index]
        self.size: tuple[int, int] = self._primary.size

    def load(self) -> Image.Image:
        """Return the primary image, upright."""
        image: Image.Image = self._primary.to_pillow()
        # libheif has turned it; set aside is what EXIF says of that.
        image.info.pop("exif", None)
        return image
