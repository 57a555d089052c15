"""The input of one row: a file, an image in memory, or a file inside or behind something else."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.core.images.batches import StoredImage
from alexnet_deploy.core.images.decode import DecodeLimits


class StoredFile(Protocol):
    """An image file in an archive or on a server, not yet read."""

    @property
    def num_bytes(self) -> int | None:
        """Its size; None if that is not known before it is read."""

    def read(self, limits: DecodeLimits) -> bytes:
        """Return the bytes of the file; raises ImageError, too_large without reading more than the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file, one image in memory or one in a larger file, that gets one row."""

    name: str
    """The given name, plus the path below it for a folder or an archive; not made absolute.

    Images in memory are # and a number. A password in a URL is masked.
    """
    held: bytes | Image.Image | np.ndarray | None = field(default=None, compare=False, repr=False)
    """The image itself if it is in memory: an image file's bytes, a PIL image or uint8 (H, W, 3); None for a file."""
    stored: StoredImage | None = field(default=None, compare=False, repr=False)
    """The image in a data set's own file, which also says how it is decoded; None for a file of its own."""
    file: StoredFile | None = field(default=None, compare=False, repr=False)
    """The image file in an archive or on a server; None for a file of its own."""
    error: tuple[ImageErrorCode, str] | None = None
    """The reason if it is already known that the input cannot be read."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        return Path(self.name)

    @property
    def text(self) -> str:
        r"""The name as text that UTF-8 can encode: bytes that are not UTF-8 are written as \xNN."""
        encoded = encoded_name(self.name)
        if encoded is None:
            encoded = self.name.encode("utf-8", "backslashreplace")
        return encoded.decode("utf-8", "backslashreplace")


def encoded_name(name: str) -> bytes | None:
    """Return the name encoded for the file system; None if that is not possible, as for half a surrogate pair."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return None
