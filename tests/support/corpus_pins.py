"""Print corpus_pins.json: the corpus files whose pixels are pinned, with their digests and codecs.

    python tests/support/corpus_pins.py FOLDER_OF_PILLOWS_TEST_IMAGES > tests/core/images/corpus_pins.json

Print it again after a change of DECODING_VERSION, or if a new release of a codec changes pixels on purpose.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
import PIL
import pillow_heif
from images import outcome
from mutations import first_mutants, good_files
from PIL import features

from alexnet_deploy.core.images.decode import DecodeLimits

SMALL = DecodeLimits(max_pixels=2**22)
NUM_PINNED = 100

EXACT = (
    *("png-rgb", "png-alpha", "png-16", "png-interlaced", "bmp-24", "bmp-rle", "tiff-raw", "tiff-16", "tiff-12"),
    *("tiff-tiff_lzw", "tiff-tiff_adobe_deflate", "tiff-packbits", "tiff-zstd", "tiff-group4", "webp-lossless"),
    *("ppm-ascii", "ppm-bits", "ppm-binary", "ppm-16"),
)
"""Valid lossless files: every encoder and decoder gives the same pixels."""


class Pins(TypedDict):
    codecs: dict[str, str]
    exact: dict[str, str]
    damaged: dict[str, str]
    pillow: dict[str, str]


def codecs() -> dict[str, str]:
    """Releases of the codecs, which determine the bytes of the drawn files and the pixels of lossy files."""
    names = ("libjpeg_turbo", "jpg_2000", "zlib", "zlib_ng", "libtiff", "webp", "avif")
    named = {name: str(features.version(name)) for name in names}
    return named | {"pillow": PIL.__version__, "libheif": pillow_heif.libheif_version()}


def digest(data: bytes) -> str:
    """Digest of the pixels, or the error code."""
    result = outcome(data, SMALL)
    return hashlib.sha256(result).hexdigest()[:16] if isinstance(result, np.ndarray) else str(result)


def spread(found: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """NUM_PINNED of the decodable files, evenly spaced."""
    decoded = [(name, value) for name, data in found if len(value := digest(data)) == 16]
    return dict(decoded[number * len(decoded) // NUM_PINNED] for number in range(NUM_PINNED))


def exact() -> dict[str, str]:
    files = good_files()
    return {name: digest(files[name]) for name in EXACT}


def damaged() -> Iterable[tuple[str, bytes]]:
    """Drawn files, except those whose encoders depend on the CPU: their bytes may differ."""
    for number, (name, data) in enumerate(first_mutants(0, 1000)):
        if not name.startswith(("avif", "heif", "webp-lossy", "webp-animated")):
            yield f"{number} {name}", data


def pillows(folder: Path) -> Iterable[tuple[str, bytes]]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


if __name__ == "__main__":
    pins = Pins(codecs=codecs(), exact=exact(), damaged=spread(damaged()), pillow=spread(pillows(Path(sys.argv[1]))))
    print(json.dumps(pins, indent=1))
