"""Convert wide-gamut colours to sRGB, on the resized 256 x 256 image.

- Converted: an ICC profile with a matrix and three curves (Display P3, Adobe RGB, ProPhoto and similar), and the
  primaries 9 (BT.2020) and 12 (P3) of a PNG's cICP or an `nclx` box; relative colorimetric, colours outside sRGB
  clipped. A profile within 2 of 255 of sRGB, as most cameras write, counts as sRGB and changes nothing.
- Ignored: other profiles (tables, grey, CMYK), broken ones, and a PNG's gAMA and cHRM.
- Refused: HDR (PQ and HLG by cICP or `nclx`). Decoded as sRGB, it would change a third of the top-1 predictions.

All arithmetic is in integers, so an implementation in another language is bit-identical. It runs on the 256 x 256
pixels, not on the file's: 3.5 ms instead of seconds.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from alexnet_deploy.core.codecs.containers import png_chunk, primary_nclx
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

# Larger profiles contain tables.
_MAX_PROFILE_BYTES = 2**16

_ONE = 65535

# Denominator of the matrix in fixed point.
_SCALE = 2**14

_NEAR = 2

# Red, green and blue of sRGB as columns of XYZ: IEC 61966-2-1, adapted to D50 by Bradford's method as ICC requires.
_SRGB = np.array(
    [
        [0.43606567, 0.38514709, 0.14306641],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)
_P3 = np.array(
    [
        [0.51511, 0.29195, 0.15710],
        [0.24118, 0.69224, 0.06657],
        [-0.00105, 0.04189, 0.78407],
    ]
)
_BT2020 = np.array(
    [
        [0.67346, 0.16565, 0.12505],
        [0.27904, 0.67534, 0.04561],
        [-0.00193, 0.02998, 0.79686],
    ]
)

# Code points of ITU-T H.273.
_PRIMARIES = {9: _BT2020, 12: _P3}
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToSrgb:
    """A conversion of pixels to sRGB."""

    curves: np.ndarray
    """int64 (3, 256): linear light, 0..65535, for each channel's value."""
    matrix: np.ndarray
    """int64 (3, 3): linear light to linear sRGB, in units of 1/16384."""

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return sRGB pixels, uint8 (..., 3), for uint8 (..., 3)."""
        light = np.stack([self.curves[channel][pixels[..., channel]] for channel in range(3)])
        mixed = [sum(int(self.matrix[to, of]) * light[of] for of in range(3)) for to in range(3)]
        linear = np.clip((np.stack(mixed, axis=-1) + _SCALE // 2) // _SCALE, 0, _ONE)
        encoded: np.ndarray = _encoding()[linear]
        return encoded


def conversion_of(image: Image.Image, data: bytes) -> ToSrgb | None:
    """Return the conversion of an opened image to sRGB, None if it counts as sRGB already.

    Raises ImageError (unsupported_format) for HDR.
    """
    if image.mode in ("1", "L", "LA", "La", "CMYK", "LAB", "I", "F") or image.mode.startswith("I;16"):
        return None
    profile = image.info.get("icc_profile")
    codes = _codes_of(image, data)
    if codes is not None and (codes[1] in _HDR_TRANSFERS):
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT,
            f"HDR ({_HDR_TRANSFERS[codes[1]]}) is not supported: it has no unique 8-bit rendering; convert it to sRGB",
        )
    if codes is not None and (image.format == "PNG" or not profile):
        return _of_primaries(codes[0])
    if not isinstance(profile, bytes) or len(profile) > _MAX_PROFILE_BYTES:
        return None
    return _of_profile(profile)


def _codes_of(image: Image.Image, data: bytes) -> tuple[int, int] | None:
    """Return the code points of primaries and transfer in the container; None if there are none."""
    if image.format == "PNG":
        stated = png_chunk(data, b"cICP")
        return (stated[0], stated[1]) if stated is not None and len(stated) >= 2 else None
    if image.format == "AVIF":
        return primary_nclx(data)
    nclx = image.info.get("nclx_profile")
    if isinstance(nclx, dict):
        return int(nclx["color_primaries"]), int(nclx["transfer_characteristics"])
    return None


@lru_cache(maxsize=4)
def _of_primaries(code: int) -> ToSrgb | None:
    if code not in _PRIMARIES:
        return None
    return _conversion(np.repeat(_srgb_light(np.arange(256) / 255)[None], 3, axis=0), _PRIMARIES[code])


@lru_cache(maxsize=32)
def _of_profile(profile: bytes) -> ToSrgb | None:
    try:
        with np.errstate(all="ignore"):
            return _parsed(profile)
    except (struct.error, KeyError, IndexError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        # A broken profile does not make valid pixels unusable.
        return None


def _parsed(profile: bytes) -> ToSrgb | None:
    if profile[16:24] != b"RGB XYZ ":
        return None
    (num_tags,) = struct.unpack_from(">I", profile, 128)
    tags = {}
    for number in range(min(num_tags, 100)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        tags[name] = profile[offset : offset + size]
    curves = np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
    colorants = np.stack([_fixed(tags[name], 8, 3) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
    if not (np.isfinite(curves).all() and np.abs(colorants).max() < 4):
        return None
    conversion = _conversion(curves, colorants)
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    is_near = np.abs(conversion.apply(colours).astype(int) - colours).max() <= _NEAR
    return None if is_near else conversion


def _fixed(tag: bytes, offset: int, count: int) -> np.ndarray:
    return np.array(struct.unpack_from(f">{count}i", tag, offset)) / 65536


def _curve(tag: bytes) -> np.ndarray:
    """Return linear light for each of 256 values; ICC.1:2022, 10.6 (curveType) and 10.18 (parametricCurveType)."""
    values = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return values
        points = np.array(struct.unpack_from(f">{count}H", tag, 12))
        if count == 1:
            return np.asarray(values ** (points[0] / 256))
        return np.interp(values, np.linspace(0, 1, count), points / _ONE)
    if tag[:4] != b"para":
        raise ValueError("a curve of an unknown type")
    (kind,) = struct.unpack_from(">H", tag, 8)
    given = _fixed(tag, 12, (1, 3, 4, 5, 7)[kind])
    g, a, b, c, d, e, f = np.concatenate([given, (1.0, 0.0, 0.0, -1.0, 0.0, 0.0)[len(given) - 1 :]]).tolist()
    if kind == 1:
        d = -b / a
    elif kind == 2:
        d, e, f, c = -b / a, c, c, 0.0
    power = np.maximum(a * values + b, 0) ** g + e
    return np.asarray(np.where(values >= d, power, c * values + f))


def _conversion(curves: np.ndarray, colorants: np.ndarray) -> ToSrgb:
    matrix = np.linalg.inv(_SRGB) @ colorants
    return ToSrgb(
        curves=np.rint(np.clip(curves, 0, 1) * _ONE).astype(np.int64),
        matrix=np.rint(matrix * _SCALE).astype(np.int64),
    )


def _srgb_light(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


@lru_cache(maxsize=1)
def _encoding() -> np.ndarray:
    """Return the sRGB value, uint8 (65536,), for each value of linear light."""
    light = np.arange(_ONE + 1) / _ONE
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(values * 255).astype(np.uint8))
