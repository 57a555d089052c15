import io
import os
import resource
import struct
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.image import ALLOWED_FORMATS, DEFAULT_LIMITS, DecodeLimits, decode_image, read_image
from alexnet_deploy.core.preprocessing import ResizePolicy

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
POLICIES: tuple[ResizePolicy, ...] = ("shorter-side", "warp")


def encode(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, raster: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(raster))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def tiff(bits: tuple[int, ...], raster: bytes, photometric: int = 1, **tags: int) -> bytes:
    """One strip, one row, of as many pixels as fill it."""
    width = len(raster) * 8 // sum(bits)
    entries = {256: (width,), 257: (1,), 258: bits, 259: (1,), 262: (photometric,), 277: (len(bits),), 278: (1,)}
    entries |= {273: (400,), 279: (len(raster),)} | {int(tag[1:]): (value,) for tag, value in tags.items()}
    ifd, beside = struct.pack("<H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, beside = struct.pack("<I", 300 + len(beside)), beside + packed
        ifd += struct.pack("<HHI4s", tag, 3, len(values), packed)
    return (b"II*\0\x08\0\0\0" + ifd + bytes(4)).ljust(300, b"\0") + beside.ljust(100, b"\0") + raster


def outcome(data: bytes, limits: DecodeLimits) -> np.ndarray | ImageErrorCode:
    try:
        return decode_image(data, "warp", limits)
    except ImageError as error:
        return error.code


def code_of(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "warp", limits)
    return caught.value.code


def read_code(path: Path) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        read_image(path, "warp")
    return caught.value.code


def colour_of(data: bytes, resize: ResizePolicy = "warp") -> tuple[int, ...]:
    """The colour of a picture that has one colour only."""
    pixels = decode_image(data, resize).reshape(-1, 3)
    assert (pixels == pixels[0]).all()
    return tuple(pixels[0].tolist())


PICTURES = {name: encode(Image.fromarray(noise(64, 64)), name) for name in ALLOWED_FORMATS}


# Refusals


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "empty", id="no bytes"),
        pytest.param(b"This is no picture.\n" * 50, "not_an_image", id="text"),
        pytest.param(b"BMW, P5 and GIF are words", "not_an_image", id="text like a bitmap"),
        pytest.param(b"P1 is the first of them", "not_an_image", id="text like a pixmap"),
        pytest.param(b"\xff\xd8", "not_an_image", id="two bytes of a JPEG"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image", id="sound"),
        pytest.param(b"qoif\0\0\0\x10\0\0\0\x10\3\0", "unsupported_format", id="QOI"),
        pytest.param(encode(Image.new("RGB", (16, 16)), "ICO"), "unsupported_format", id="ICO"),
        pytest.param(b"8BPS\0\1", "unsupported_format", id="PSD"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format", id="HEIC"),
        pytest.param(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "unsupported_format", id="AVIF"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format", id="EPS"),
        pytest.param(encode(Image.new("F", (4, 4)), "TIFF"), "unsupported_format", id="float TIFF"),
        pytest.param(encode(Image.new("I", (4, 4)), "TIFF"), "unsupported_format", id="32-bit TIFF"),
        pytest.param(encode(Image.new("LAB", (4, 4)), "TIFF"), "unsupported_format", id="LAB TIFF"),
        pytest.param(tiff((16, 16), bytes(4)), "unsupported_format", id="TIFF of two bands"),
        pytest.param(tiff((8,) * 7, bytes(70)), "unsupported_format", id="TIFF of seven bands"),
        pytest.param(encode(Image.new("F", (4, 4)), "PPM"), "unsupported_format", id="float PPM"),
        pytest.param(PICTURES["BMP"][:28] + b"\2" + PICTURES["BMP"][29:], "unsupported_format", id="2-bit BMP"),
        pytest.param(png(0, 4, 8, 2, b""), "truncated", id="no width"),
        pytest.param(png(2, 1, 8, 3, b"\0\0\1"), "truncated", id="palette missing"),
        pytest.param(png(1, 1, 8, 0, b"\0\0", after=chunk(b"gAMA", b"")), "truncated", id="empty chunk"),
        pytest.param(png(1, 1, 8, 0, b"\0\0", after=chunk(b"iCCP", b"x\0")), "truncated", id="short profile"),
        pytest.param(tiff((8,), b"\0").replace(b"\x11\1\3", b"\x11\1\2"), "truncated", id="offset that is text"),
        pytest.param(tiff((8,), b"\0").replace(b"\x11\1\3", b"\x11\1\5"), "truncated", id="offset that is a fraction"),
        pytest.param(
            tiff((8,), b"\0", photometric=3, t320=65535).replace(b"\x40\1\3", b"\x40\1\x08"),
            "truncated",
            id="negative palette",
        ),
        pytest.param(b"RIFF\n\0\0\0WEBPVP8 ", "truncated", id="header of a WebP"),
        pytest.param(
            b"GIF89a\1\0\1\0\0\0\0," + struct.pack("<4HB", 0, 0, 60_000, 60_000, 0) + b"\2\0;", "too_large", id="frame"
        ),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_its_code(data: bytes, code: str) -> None:
    assert code_of(data) == code


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("name", ALLOWED_FORMATS)
def test_a_file_that_ends_early_is_truncated(name: str, share: float) -> None:
    assert code_of(PICTURES[name][: int(len(PICTURES[name]) * share)]) == "truncated"


@pytest.mark.parametrize("name", sorted(set(ALLOWED_FORMATS) - {"BMP", "PPM"}))
def test_a_file_that_ends_in_its_header_is_truncated(name: str) -> None:
    assert code_of(PICTURES[name][:14]) == "truncated"


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = png(20_000, 20_000, 1, 0, bytes(2501 * 20_000))
    start, memory_kib = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(bomb) == "too_large"
    assert time.perf_counter() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 20_000


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**30)
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_code(tmp_path / "sparse") == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 20_000


def test_a_picture_that_memory_does_not_hold_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", no_memory)
    assert code_of(encode(Image.new("L", (4, 4)), "PNG")) == "too_large"


def test_limits_are_inclusive(tmp_path: Path) -> None:
    path, data = tmp_path / "a.png", PICTURES["PNG"]
    path.write_bytes(data)
    exact = DecodeLimits(max_pixels=64 * 64, max_bytes=len(data))
    assert np.array_equal(read_image(path, "warp", exact), decode_image(data, "warp"))
    for limits in (DecodeLimits(max_pixels=64 * 64 - 1), DecodeLimits(max_bytes=len(data) - 1)):
        assert code_of(data, limits) == "too_large"
        with pytest.raises(ImageError) as caught:
            read_image(path, "warp", limits)
        assert caught.value.code == "too_large"


def test_a_limit_above_the_size_that_pillow_warns_of_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    for data in PICTURES.values():
        assert decode_image(data, "warp", DecodeLimits(max_pixels=64 * 64)).shape == (256, 256, 3)
        assert code_of(data, DecodeLimits(max_pixels=64 * 64 - 1)) == "too_large"


@pytest.mark.parametrize("limits", [{"max_pixels": 0}, {"max_pixels": 10**9}, {"max_bytes": 0}], ids=str)
def test_a_limit_that_admits_nothing_or_that_pillow_overrules_is_wrong_use(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        DecodeLimits(**limits)


# Files


@contextmanager
def unprivileged_folder() -> Iterator[Path]:
    """A folder whose permissions bind us, even where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        user = os.geteuid()
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 \xff.jpg")
    path.write_bytes(PICTURES["PNG"])
    link = tmp_path / "link"
    link.symlink_to(path)
    assert np.array_equal(read_image(path, "warp"), decode_image(PICTURES["PNG"], "warp"))
    assert np.array_equal(read_image(link, "warp"), decode_image(PICTURES["PNG"], "warp"))


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    assert read_code(tmp_path / "nothing") == "missing"
    assert read_code(tmp_path / "broken") == "missing"


def test_what_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path, tmp_path / "a", tmp_path / "n\0l", tmp_path / ("x" * 300), Path("/dev/null")):
        assert read_code(path) == "unreadable"


def test_a_file_without_permission_is_unreadable() -> None:
    with unprivileged_folder() as folder:
        path = folder / "a.png"
        path.write_bytes(PICTURES["PNG"])
        path.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        assert read_code(path) == "unreadable"


def test_a_pipe_is_unreadable_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    codes: list[ImageErrorCode] = []
    reader = threading.Thread(target=lambda: codes.append(read_code(tmp_path / "pipe")), daemon=True)
    reader.start()
    reader.join(timeout=5)
    assert codes == ["unreadable"]


# Colour


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)), name), id=name)
        for name in ("PNG", "PPM", "TIFF")
    ],
)
def test_16_bit_grey_is_scaled_not_clipped(data: bytes) -> None:
    pixels = decode_image(data, "warp")
    assert abs(pixels.mean() - 127.5) < 0.01
    assert np.array_equal(pixels[:, :, 1].ravel(), np.rint(np.arange(65536) / 257))


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        pytest.param(b"P5 1 1 1023\n\2\0", 128, id="PGM of 10 bits"),
        pytest.param(b"P5 1 1 15\n\5", 85, id="PGM of 4 bits"),
        pytest.param(tiff((12,), b"\x80\x08\x00"), 128, id="TIFF of 12 bits"),
        pytest.param(tiff((16,), b"\0\x40" * 2), 64, id="TIFF of 16 bits"),
        pytest.param(tiff((16,), b"\0\x40" * 2, photometric=0), 191, id="TIFF of 16 bits where zero is white"),
        pytest.param(tiff((8,), b"\x40" * 2, photometric=0), 191, id="TIFF of 8 bits where zero is white"),
        pytest.param(png(1, 1, 2, 0, b"\0\x40"), 85, id="PNG of 2 bits"),
    ],
)
def test_grey_of_any_depth_is_scaled(data: bytes, grey: int) -> None:
    pixels = decode_image(data, "warp")
    assert (pixels[:, 0] == grey).all()


def test_16_bit_colour_is_scaled() -> None:
    data = png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 32768, 1000, 65535))
    assert colour_of(data) == (128, 3, 255)


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED), ((255, 255, 0, 0), BLUE), ((0, 0, 0, 255), BLACK)],
    ids=["paper", "red", "blue", "black"],
)
@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_colours_it_prints(name: str, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    found = colour_of(encode(Image.new("CMYK", (16, 16), ink), name))
    assert np.abs(np.subtract(found, colour)).max() <= 2


@pytest.mark.parametrize("name", ["BMP", "GIF", "PNG", "PPM", "TIFF"])
def test_one_bit_is_black_and_white(name: str) -> None:
    bits = np.arange(256 * 256).reshape(256, 256) % 3 == 0
    pixels = decode_image(encode(Image.fromarray(bits), name), "warp")
    assert np.array_equal(pixels, np.repeat(np.where(bits, 255, 0)[:, :, None], 3, axis=2))


def palette_picture(name: str, transparency: int | bytes) -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*BLUE, *RED])
    return encode(image, name, transparency=transparency)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encode(Image.new("RGBA", (8, 8), (*RED, 0)), "PNG"), WHITE, id="RGBA clear"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*RED, 255)), "PNG"), RED, id="RGBA opaque"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*BLACK, 128)), "PNG"), (127,) * 3, id="RGBA half"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*RED, 0)), "TIFF"), WHITE, id="RGBA clear, TIFF"),
        pytest.param(
            encode(Image.new("RGBA", (8, 8), (*RED, 0)), "WEBP", lossless=True, exact=True),
            WHITE,
            id="RGBA clear, WebP",
        ),
        pytest.param(encode(Image.new("LA", (8, 8), (0, 0)), "PNG"), WHITE, id="LA clear"),
        pytest.param(encode(Image.new("LA", (8, 8), (0, 128)), "PNG"), (127,) * 3, id="LA half"),
        pytest.param(tiff((8, 8), b"\x40\x80" * 8, t338=1), (191,) * 3, id="premultiplied LA"),
        pytest.param(palette_picture("PNG", 1), WHITE, id="palette entry clear"),
        pytest.param(palette_picture("PNG", 0), RED, id="other palette entry clear"),
        pytest.param(palette_picture("PNG", b"\xff\x33"), (255, 204, 204), id="palette of alphas"),
        pytest.param(palette_picture("GIF", 1), WHITE, id="GIF"),
        pytest.param(encode(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED), WHITE, id="colour key"),
        pytest.param(encode(Image.new("RGB", (8, 8), RED), "PNG", transparency=BLUE), RED, id="other colour key"),
    ],
)
def test_transparency_is_laid_over_white(data: bytes, colour: tuple[int, ...]) -> None:
    assert colour_of(data) == colour


@pytest.mark.parametrize(
    ("depth", "colour", "pixel", "other"),
    [
        pytest.param(1, 0, b"\0", b"\x80", id="1-bit grey"),
        pytest.param(2, 0, b"\x40", b"\x80", id="2-bit grey"),
        pytest.param(4, 0, b"\x50", b"\x60", id="4-bit grey"),
        pytest.param(8, 0, b"\x50", b"\x60", id="8-bit grey"),
        pytest.param(16, 0, b"\x50\x01", b"\x50\x02", id="16-bit grey"),
        pytest.param(8, 2, b"\1\2\3", b"\1\2\4", id="8-bit RGB"),
        pytest.param(16, 2, b"\1\0\2\0\3\0", b"\1\0\2\0\4\0", id="16-bit RGB"),
    ],
)
def test_a_colour_key_of_any_depth_is_laid_over_white(depth: int, colour: int, pixel: bytes, other: bytes) -> None:
    bits = "".join(f"{byte:08b}" for byte in pixel)
    size = max(depth, 8) if colour == 2 else depth
    samples = [int(bits[start : start + size], 2) for start in range(0, size * (3 if colour == 2 else 1), size)]
    key = chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))
    assert colour_of(png(1, 1, depth, colour, b"\0" + pixel, key)) == WHITE
    assert colour_of(png(1, 1, depth, colour, b"\0" + other, key)) == colour_of(png(1, 1, depth, colour, b"\0" + other))


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = LOSSLESS.get(name, {})
    assert colour_of(encode(frames[0], name, save_all=True, append_images=frames[1:], **options)) == RED


# EXIF

# From the standard's own words (which side of the scene row 0 and column 0 show), not from Pillow's table.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


def exif(orientation: int) -> bytes:
    notes = Image.Exif()
    notes[0x0112] = orientation
    notes[0x010F] = "a maker of cameras, whose name fills more than four bytes"
    return notes.tobytes()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", LOSSLESS)
def test_a_picture_comes_out_upright(name: str, orientation: int) -> None:
    stored = noise(512, 256)
    data = encode(Image.fromarray(stored), name, exif=exif(orientation), **LOSSLESS[name])
    upright = UPRIGHT[orientation](stored)
    middle = upright[:, 128:384] if orientation < 5 else upright[128:384]
    assert np.array_equal(decode_image(data, "shorter-side"), middle)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_comes_out_upright(orientation: int) -> None:
    image = Image.fromarray(noise(256, 256))
    turned = decode_image(encode(image, "JPEG", exif=exif(orientation)), "warp")
    assert np.array_equal(turned, UPRIGHT[orientation](decode_image(encode(image, "JPEG"), "warp")))


def test_an_orientation_outside_the_standard_turns_nothing() -> None:
    stored = noise(256, 256)
    assert np.array_equal(decode_image(encode(Image.fromarray(stored), "PNG", exif=exif(9)), "warp"), stored)


BROKEN_NOTES = {
    "no TIFF": b"Exif\0\0 not a directory",
    "short header": b"Exif\0\0II*\0",
    "no directory": b"Exif\0\0II*\0\xff\xff\0\0",
    "half a directory": exif(1)[:30],
    "values cut off": exif(1)[:-20],
}


@pytest.mark.parametrize("notes", BROKEN_NOTES.values(), ids=BROKEN_NOTES)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_broken_notes_do_not_stop_a_picture(name: str, notes: bytes) -> None:
    image, options = Image.fromarray(noise(32, 32)), LOSSLESS.get(name, {})
    plain = decode_image(encode(image, name, **options), "warp")
    assert np.array_equal(decode_image(encode(image, name, exif=notes, **options), "warp"), plain)


WARNED_OF = {
    "broken notes": encode(Image.fromarray(noise(32, 32)), "PNG", exif=BROKEN_NOTES["values cut off"]),
    "an animation of no frames": png(1, 1, 8, 2, b"\0" + bytes(RED), chunk(b"acTL", bytes(8))),
}


@pytest.mark.parametrize("data", WARNED_OF.values(), ids=WARNED_OF)
def test_the_callers_warning_filters_do_not_change_the_pixels(data: bytes) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = decode_image(data, "warp")
    assert caught
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: decode_image(data, "warp"), range(8)))
        assert warnings.filters == filters
    assert all(np.array_equal(pixels, expected) for pixels in found)


# Geometry


@pytest.mark.parametrize("resize", POLICIES)
def test_a_picture_of_the_right_size_is_untouched(resize: ResizePolicy) -> None:
    stored = noise(256, 256)
    pixels = decode_image(encode(Image.fromarray(stored), "PNG"), resize)
    assert np.array_equal(pixels, stored)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("width", [257, 341, 512, 768])
def test_shorter_side_of_256_is_cut_not_resampled(width: int) -> None:
    stored, left = noise(width, 256), (width - 256) // 2
    wide, tall = Image.fromarray(stored), Image.fromarray(stored.swapaxes(0, 1))
    middle = stored[:, left : left + 256]
    assert np.array_equal(decode_image(encode(wide, "PNG"), "shorter-side"), middle)
    assert np.array_equal(decode_image(encode(tall, "PNG"), "shorter-side"), middle.swapaxes(0, 1))


def triangle_weights(length: int, start: float, side: float) -> np.ndarray:
    """Weights (256, length) of the antialiased bilinear filter that brings `side` pixels from `start` on to 256."""
    scale = side / 256
    centres = start + (np.arange(256) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1))
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


@pytest.mark.parametrize("resize", POLICIES)
@pytest.mark.parametrize("size", [(500, 375), (300, 801), (100, 80), (37, 256)], ids=str)
def test_resizing_is_the_antialiased_bilinear_filter(size: tuple[int, int], resize: ResizePolicy) -> None:
    width, height = size
    across, down, left, top = float(width), float(height), 0, 0
    if resize == "shorter-side":
        across = down = min(size)
        left, top = (width - int(across)) // 2, (height - int(down)) // 2
    stored = noise(width, height)
    rows, columns = triangle_weights(height, top, down), triangle_weights(width, left, across)
    expected = np.einsum("yh,xw,hwc->yxc", rows, columns, stored.astype(np.float64), optimize=True)
    # Pillow rounds after each of its two passes.
    assert np.abs(decode_image(encode(Image.fromarray(stored), "PNG"), resize) - expected).max() <= 1.01


def test_shorter_side_keeps_the_middle_and_warp_keeps_all() -> None:
    stripes = np.repeat(np.array([[RED, WHITE, BLUE]], np.uint8), 300, axis=1).repeat(300, axis=0)
    data = encode(Image.fromarray(stripes), "PNG")
    assert colour_of_middle(decode_image(data, "shorter-side")) == [[255, 255, 255]] * 3
    assert colour_of_middle(decode_image(data, "warp")) == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def colour_of_middle(pixels: np.ndarray) -> list[list[int]]:
    colours: list[list[int]] = pixels[128, [10, 128, 245]].tolist()
    return colours


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("resize", POLICIES)
def test_a_line_of_pixels_is_a_picture(size: tuple[int, int], resize: ResizePolicy) -> None:
    assert colour_of(encode(Image.new("RGB", size, BLUE), "PNG"), resize) == BLUE


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)], ids=str)
def test_the_central_square_of_a_line_is_one_pixel(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, BLUE)
    image.putpixel(((size[0] - 1) // 2, (size[1] - 1) // 2), RED)
    assert decode_image(encode(image, "PNG"), "shorter-side")[128, 128].tolist() == [255, 0, 0]


# Laws

MODES = {
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I;16", "I", "F"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "WEBP": ("L", "P", "RGB", "RGBA"),
}
UNDEFINED_RANGE = {("TIFF", "I"), ("TIFF", "F"), ("TIFF", "LAB"), ("PPM", "F")}


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from([(name, mode) for name, modes in MODES.items() for mode in modes]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(POLICIES),
)
def test_any_picture_is_256_by_256_or_refused_and_always_the_same(
    kind: tuple[str, str], size: tuple[int, int], resize: ResizePolicy
) -> None:
    name, mode = kind
    image = Image.fromarray(noise(*size))
    image = image.convert("L").convert(mode) if mode in ("I;16", "I", "F") else image.convert(mode)
    data = encode(image, name)
    if kind in UNDEFINED_RANGE:
        assert code_of(data) == "unsupported_format"
        return
    pixels = decode_image(data, resize)
    assert pixels.shape == (256, 256, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, decode_image(data, resize))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(ALLOWED_FORMATS),
    keep=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8),
    in_header=st.booleans(),
)
def test_a_damaged_file_is_a_picture_or_an_image_error(
    name: str, keep: float, changes: list[tuple[float, int]], in_header: bool
) -> None:
    data = bytearray(PICTURES[name])
    for place, value in changes:
        data[int(place * (120 if in_header else len(data)))] = value
    if not changes:
        data = data[: int(keep * len(data))]
    result = outcome(bytes(data), DecodeLimits(max_pixels=100_000))
    assert isinstance(result, ImageErrorCode) or result.shape == (256, 256, 3)
