"""Valid files of every allowed format, and damaged variants of them, reproducible by seed."""

import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import numpy as np
from images import chunk, encode, noise, png, tiff
from PIL import Image

PNG_START = 8


def _run_length_bitmap() -> bytes:
    """Return a run-length-coded BMP with 8 bits per pixel: runs, a literal block, a jump and line ends."""
    pixels = (b"\x10\x07\0\0" + b"\0\x04\1\2\3\4" + b"\x0c\x09\0\0" + b"\0\2\3\1" + b"\x05\x0b\0\0") * 6 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 16, 24, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    palette = bytes(value for index in range(256) for value in (index, 255 - index, 7, 0))
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


def good_files() -> dict[str, bytes]:
    """Return files by name; the part of the name before the hyphen is the format."""
    rgb = Image.fromarray(noise(40, 30))
    # Large areas of one colour, which compress well.
    flat = Image.fromarray(np.kron(noise(5, 4), np.ones((8, 8, 1), np.uint8)).astype(np.uint8))
    grey, palette, alpha = rgb.convert("L"), flat.quantize(16), flat.convert("RGBA")
    alpha.putalpha(grey.resize(alpha.size))
    frames = [flat, flat.rotate(180)]
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "A maker", 0x011A: 72.0, 0x0128: 2})
    lines = bytes(0 if column == 0 else (7 * row * column) % 256 for row in range(20) for column in range(1 + 48))
    ascii_pixels = " ".join(str(value) for value in noise(9, 7).ravel()).encode()
    files = {
        "jpeg-baseline": encode(rgb, "JPEG"),
        "jpeg-progressive": encode(flat, "JPEG", progressive=True),
        "jpeg-cmyk": encode(flat.convert("CMYK"), "JPEG"),
        "jpeg-exif": encode(
            flat, "JPEG", exif=exif, icc_profile=b"profile" * 20, comment=b"note", restart_marker_rows=1
        ),
        "png-rgb": encode(rgb, "PNG"),
        "png-palette": encode(palette, "PNG", transparency=3, bits=4),
        "png-alpha": encode(alpha, "PNG", exif=exif),
        "png-16": png(24, 20, 16, 0, lines, before=chunk(b"tRNS", b"\0\7")),
        "png-interlaced": png(16, 20, 8, 2, bytes(1200), before=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"text" * 50))),
        "png-animated": encode(flat, "PNG", save_all=True, append_images=frames[1:]),
        "gif-plain": encode(palette, "GIF"),
        "gif-animated": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)], transparency=2),
        "bmp-24": encode(rgb, "BMP"),
        "bmp-palette": encode(palette, "BMP"),
        "bmp-rle": _run_length_bitmap(),
        "tiff-raw": encode(rgb, "TIFF"),
        "tiff-16": encode(grey.convert("I;16"), "TIFF"),
        "tiff-12": tiff((12,), bytes(range(36))),
        "webp-lossy": encode(rgb, "WEBP"),
        "webp-lossless": encode(alpha, "WEBP", lossless=True, exif=exif),
        "webp-animated": encode(flat, "WEBP", save_all=True, append_images=frames[1:]),
        "avif-plain": encode(rgb, "AVIF", exif=exif),
        "avif-alpha": encode(alpha, "AVIF"),
        "heif-plain": encode(rgb, "HEIF", exif=exif.tobytes()),
        "heif-alpha": encode(alpha, "HEIF"),
        "jpeg2000-plain": encode(rgb, "JPEG2000"),
        "jpeg2000-alpha": encode(alpha, "JPEG2000"),
        "jpeg2000-16": encode(grey.convert("I;16"), "JPEG2000", no_jp2=True),
        "ppm-ascii": b"P3 # made by hand\n9 7\n255\n" + ascii_pixels,
        "ppm-bits": b"P1 8 4 " + b"0 1 " * 16,
        "ppm-binary": encode(rgb, "PPM"),
        "ppm-16": b"P5 8 8 1000\n" + bytes(range(128)),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        files[f"tiff-{compression}"] = encode(flat, "TIFF", compression=compression)
    files["tiff-group4"] = encode(flat.convert("1"), "TIFF", compression="group4")
    return files


def mutants(seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged files endlessly, each with the name of the file and its changes."""
    files = good_files()
    chance = random.Random(seed)
    while True:
        yield changed(chance, files, chance.choice(list(files)))


def changed(chance: random.Random, files: dict[str, bytes], name: str) -> tuple[str, bytes]:
    """Return a damaged variant of one of the files, with the name of the file and its changes."""
    # Often more than one change: code behind a first check is only reached by a second change.
    changes = chance.choices(list(_CHANGES), k=chance.choice((1, 1, 2, 3)))
    data = files[name]
    for change in changes:
        data = _CHANGES[change](chance, data, files)
    if name.startswith("png") and chance.random() < 0.7:
        data = _sealed(data)
    return f"{name} {' '.join(changes)}", data


def first_mutants(seed: int, number: int) -> Iterator[tuple[str, bytes]]:
    return islice(mutants(seed), number)


def _flip(chance: random.Random, data: bytes, within: int) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 5, 20))):
        changed[chance.randrange(min(within, len(changed)))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _write_number(chance: random.Random, data: bytes, within: int) -> bytes:
    width = chance.choice((1, 2, 4))
    largest = 256**width - 1
    value = chance.choice((0, 1, 2, 7, largest // 2, largest // 2 + 1, largest - 1, largest, len(data) & largest))
    place = chance.randrange(min(within, len(data)))
    return data[:place] + value.to_bytes(width, chance.choice(("big", "little"))) + data[place + width :]


def _resize(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    """Write another size into the header: as large as the field can hold, or slightly different."""
    size = [chance.choice((1, 3, 255, 2000, 16_383, 40_000, 65_535)) for _ in range(2)]
    long = [chance.choice((value, 2**31 - 1, 2**32 - 1, 100_000)) for value in size]
    if data.startswith(b"\x89PNG"):
        return data[:16] + struct.pack(">II", *long) + data[24:]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<II", *long) + data[26:]
    if data.startswith(b"GIF"):
        return data[:6] + struct.pack("<HH", *size) + data[10:]
    if data.startswith(b"\xff\xd8") and (frame := re.search(rb"(?s)\xff[\xc0-\xc2]..\x08", data)) is not None:
        return data[: frame.end()] + struct.pack(">HH", *size) + data[frame.end() + 4 :]
    if data.startswith(b"RIFF"):
        return data[:24] + struct.pack("<IH", long[0], size[1]) + data[30:]
    if data[4:8] == b"ftyp":
        return re.sub(rb"(?s)ispe....\x00{0}.{8}", lambda found: found[0][:8] + struct.pack(">II", *long), data)
    if (codestream := data.find(b"\xff\x4f\xff\x51")) >= 0:
        return data[: codestream + 8] + struct.pack(">II", *long) + data[codestream + 16 :]
    if data.startswith(b"P"):
        return re.sub(rb"\d\d?(\s+)\d\d?", rb"%d\g<1>%d" % tuple(long), data, count=1)
    # A TIFF's width (tag 256) and height (257), of type short or long.
    entry = rb"(?s)([\x00\x01]\x01)[\x03\x04]\x00\x01\x00\x00\x00...."
    return re.sub(
        entry, lambda found: found[1] + b"\4\0\1\0\0\0" + struct.pack("<I", chance.choice(long)), data, count=2
    )


def _pieces(data: bytes) -> list[bytes]:
    """Return the parts of a file, by its format if that has parts, else of equal size; joined they give the file."""
    if data.startswith(b"\x89PNG"):
        starts, position = [], PNG_START
        while position < len(data):
            starts.append(position)
            position += 12 + int.from_bytes(data[position : position + 4], "big")
    elif data.startswith(b"\xff\xd8"):
        starts = [found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", data)][1:]
    elif data.startswith(b"RIFF"):
        starts = [found.start() for found in re.finditer(rb"VP8[ XL]|ALPH|ANIM|ANMF|EXIF", data)]
    else:
        starts = [len(data) * number // 12 for number in range(1, 12)]
    edges = [0, *starts, len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def _rearrange(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    first, *others = _pieces(data)
    if not others:
        return data
    place = chance.randrange(len(others))
    match chance.choice(("repeat", "drop", "swap", "shuffle")):
        case "repeat":
            others[place:place] = [others[place]] * chance.choice((1, 2, 50, 500))
        case "drop":
            del others[place]
        case "swap":
            other = chance.randrange(len(others))
            others[place], others[other] = others[other], others[place]
        case _:
            chance.shuffle(others)
    return first + b"".join(others)


def _splice(chance: random.Random, data: bytes, files: dict[str, bytes]) -> bytes:
    other = files[chance.choice(list(files))]
    return data[: chance.randrange(1, len(data) + 1)] + other[chance.randrange(len(other)) :]


def _sealed(data: bytes) -> bytes:
    """Return a PNG with corrected chunk checksums, as far as its chunks can be parsed."""
    sealed, position = bytearray(data[:PNG_START]), PNG_START
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        body = data[position + 4 : end]
        sealed += data[position:end] + zlib.crc32(body).to_bytes(4, "big")
        position = end + 4
    return bytes(sealed)


_CHANGES: dict[str, Callable[[random.Random, bytes, dict[str, bytes]], bytes]] = {
    "bits": lambda chance, data, _: _flip(chance, data, len(data)),
    "header bits": lambda chance, data, _: _flip(chance, data, 64),
    "number": lambda chance, data, _: _write_number(chance, data, len(data)),
    "header number": lambda chance, data, _: _write_number(chance, data, 64),
    "end": lambda chance, data, _: data[: chance.randrange(1, len(data) + 1)],
    "size": _resize,
    "pieces": _rearrange,
    "splice": _splice,
}
