"""Small PNG and JPEG files of every kind, with every chunk that counts, and damaged variants, reproducible by seed."""

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from images import chunk, encode, noise
from mutations import changed, good_files
from PIL import Image, ImageCms

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))


def _rows(width: int, height: int, bits: int, is_interlaced: bool) -> bytes:
    """Return random filtered rows: of the image, or of the seven passes."""
    rng = np.random.default_rng(bits)
    parts = []
    for left, across, top, down in _PASSES if is_interlaced else ((0, 1, 0, 1),):
        columns, lines = len(range(left, width, across)), len(range(top, height, down))
        if columns and lines:
            rows = rng.integers(0, 256, (lines, 1 + (columns * bits + 7) // 8), dtype=np.uint8)
            rows[:, 0] = np.arange(lines) % 5
            parts.append(rows.tobytes())
    return b"".join(parts)


def _png(colour: int, depth: int, is_interlaced: bool, before: bytes, after: bytes, piece: int) -> bytes:
    width, height = 13, 11
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(is_interlaced))
    packed = zlib.compress(_rows(width, height, depth * _SAMPLES[colour], is_interlaced))
    pieces = [chunk(b"IDAT", packed[start : start + piece]) for start in range(0, len(packed), piece)]
    return _SIGNATURE + chunk(b"IHDR", header) + before + b"".join(pieces) + after + chunk(b"IEND", b"")


def _notes() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raw = b"\nexif\n      %d\n%s\n" % (len(exif.tobytes()), exif.tobytes().hex().encode())
    return {
        "exif": chunk(b"eXIf", exif.tobytes()),
        "gamma": chunk(b"gAMA", struct.pack(">I", 45_455)) + chunk(b"cHRM", bytes(32)) + chunk(b"sRGB", b"\0"),
        "text": chunk(b"tEXt", b"Comment\0words") + chunk(b"tEXt", b"Raw profile type exif\0" + raw),
        "compressed": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        "international": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='3'/>"),
        "profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)),
        "codes": chunk(b"cICP", bytes([12, 13, 0, 1])),
        "sizes": chunk(b"pHYs", bytes(9)) + chunk(b"bKGD", bytes(6)) + chunk(b"tIME", bytes(7)),
    }


@cache
def sound_files() -> dict[str, bytes]:
    """Return valid files by name."""
    files = {name: data for name, data in good_files().items() if name.startswith(("png", "jpeg-"))}
    notes = list(_notes().items())
    for colour, depths in _DEPTHS.items():
        for depth in depths:
            for is_interlaced in (False, True):
                name, note = notes[len(files) % len(notes)]
                palette = chunk(b"PLTE", noise(1 << min(depth, 8), 1).tobytes()) if colour == 3 else b""
                key = chunk(b"tRNS", bytes([0, 1] * _SAMPLES[colour])) if colour in (0, 2, 3) else b""
                kind = f"png-{colour}-{depth}-{'interlaced' if is_interlaced else 'plain'}"
                files[f"{kind}-{name}"] = _png(colour, depth, is_interlaced, palette + note, key, 4096)
                files[f"{kind}-key"] = _png(colour, depth, is_interlaced, palette + key, note, 40)
    small = Image.fromarray(noise(19, 14))
    exif = Image.Exif()
    exif[0x0112] = 5
    for subsampling in (0, 1, 2):
        files[f"jpeg-sampled-{subsampling}"] = encode(small, "JPEG", subsampling=subsampling, exif=exif)
    files["jpeg-grey"] = encode(small.convert("L"), "JPEG", restart_marker_blocks=1)
    files["jpeg-profile"] = encode(small, "JPEG", icc_profile=notes[5][1][20:])
    return files


def mutants(seed: int, numbers: range) -> Iterator[tuple[str, bytes]]:
    """Yield the damaged files of these numbers; seed and number alone determine each."""
    files = sound_files()
    for number in numbers:
        chance = random.Random(f"{seed}/{number}")
        name, data = changed(chance, files, chance.choice(list(files)))
        yield f"{seed}/{number} {name}", data
