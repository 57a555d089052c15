"""The golden files: small images in every form that a decoder may get wrong, with the digests of their pixels.

scripts/golden-files drew them, once. They are committed because encoders differ: another version of Pillow or of its
codecs would draw other bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from msgspec import Struct
from PIL import features

from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import DecodePolicy, ImagePolicy, ResizePolicy
from alexnet_deploy.core.records import Sha256

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFile:
    """One golden file."""

    name: str
    """File name, as baseline.jpg."""
    about: str
    """The form that it stands for."""
    data: bytes
    """Content of the file."""
    pixels: np.ndarray
    """What must come of it: uint8 (256, 256, 3), RGB, upright."""


class _Pin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record of files.json."""

    name: str
    about: str
    decode: DecodePolicy | None = None
    """The decode policy that the file is for; None if it is for all, and its pixels are the same under each."""
    pixels_sha256: dict[ResizePolicy, Sha256]


def golden_files(policy: ImagePolicy) -> tuple[GoldenFile, ...]:
    """Return the golden files of an image policy, with their pixels.

    Raises BundleError if the installed codecs decode one of them to pixels other than the pinned ones.
    """
    pins = from_json((_HERE / "files.json").read_bytes(), tuple[_Pin, ...])
    found = []
    for pin in pins:
        if pin.decode not in (None, policy.decode):
            continue
        data = (_HERE / "pictures" / pin.name).read_bytes()
        pixels = decode_image(data, policy)
        if sha256(pixels.tobytes()) != pin.pixels_sha256[policy.resize]:
            raise BundleError(
                f"{pin.name}: {decoder_version()} decodes this golden file to other pixels than the decoding policy "
                "requires; install Pillow's own wheel: pip install --force-reinstall --only-binary :all: pillow"
            )
        found.append(GoldenFile(name=pin.name, about=pin.about, data=data, pixels=pixels))
    return tuple(found)


def descriptions() -> dict[str, str]:
    """Return what each golden file stands for, by its name."""
    return {pin.name: pin.about for pin in from_json((_HERE / "files.json").read_bytes(), tuple[_Pin, ...])}


def decoder_version() -> str:
    """Return the names and versions of the installed decoders: `Pillow 13.0.0, libjpeg-turbo 3.1.2`."""
    jpeg = "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "libjpeg"
    version = features.version_feature("libjpeg_turbo") or features.version_codec("jpg")
    return f"Pillow {PIL.__version__}, {jpeg} {version}"
