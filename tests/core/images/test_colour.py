import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from images import BLACK, BLUE, LOSSLESS, RED, WHITE, chunk, colour_of, encode, noise, png, tiff
from PIL import Image

from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP

BIG_ENDIAN_RAMP = encode(Image.frombytes("I;16B", (256, 256), np.arange(65536, dtype=">u2").tobytes()), "TIFF")
assert BIG_ENDIAN_RAMP.startswith(b"MM")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)), name), id=name)
        for name in ("PNG", "PPM", "TIFF")
    ]
    + [pytest.param(BIG_ENDIAN_RAMP, id="TIFF, most significant byte first")],
)
def test_16_bit_grey_is_scaled_not_clipped(data: bytes) -> None:
    pixels = decode_image(data, WARP)
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
    pixels = decode_image(data, WARP)
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
    pixels = decode_image(encode(Image.fromarray(bits), name), WARP)
    assert np.array_equal(pixels, np.repeat(np.where(bits, 255, 0)[:, :, None], 3, axis=2))


def palette_image(name: str, transparency: int | bytes) -> bytes:
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
        pytest.param(palette_image("PNG", 1), WHITE, id="palette entry clear"),
        pytest.param(palette_image("PNG", 0), RED, id="other palette entry clear"),
        pytest.param(palette_image("PNG", b"\xff\x33"), (255, 204, 204), id="palette of alphas"),
        pytest.param(palette_image("GIF", 1), WHITE, id="GIF"),
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
def test_an_image_comes_out_upright(name: str, orientation: int) -> None:
    stored = noise(512, 256)
    data = encode(Image.fromarray(stored), name, exif=exif(orientation), **LOSSLESS[name])
    upright = UPRIGHT[orientation](stored)
    middle = upright[:, 128:384] if orientation < 5 else upright[128:384]
    assert np.array_equal(decode_image(data, SHORTER_SIDE), middle)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_comes_out_upright(orientation: int) -> None:
    image = Image.fromarray(noise(256, 256))
    turned = decode_image(encode(image, "JPEG", exif=exif(orientation)), WARP)
    assert np.array_equal(turned, UPRIGHT[orientation](decode_image(encode(image, "JPEG"), WARP)))


def test_an_orientation_outside_the_standard_turns_nothing() -> None:
    stored = noise(256, 256)
    assert np.array_equal(decode_image(encode(Image.fromarray(stored), "PNG", exif=exif(9)), WARP), stored)


BROKEN_NOTES = {
    "no TIFF": b"Exif\0\0 not a directory",
    "short header": b"Exif\0\0II*\0",
    "no directory": b"Exif\0\0II*\0\xff\xff\0\0",
    "half a directory": exif(1)[:30],
    "values cut off": exif(1)[:-20],
}


@pytest.mark.parametrize("notes", BROKEN_NOTES.values(), ids=BROKEN_NOTES)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_broken_notes_do_not_stop_an_image(name: str, notes: bytes) -> None:
    image, options = Image.fromarray(noise(32, 32)), LOSSLESS.get(name, {})
    plain = decode_image(encode(image, name, **options), WARP)
    assert np.array_equal(decode_image(encode(image, name, exif=notes, **options), WARP), plain)


WARNED_OF = {
    "broken notes": encode(Image.fromarray(noise(32, 32)), "PNG", exif=BROKEN_NOTES["values cut off"]),
    "an animation of no frames": png(1, 1, 8, 2, b"\0" + bytes(RED), chunk(b"acTL", bytes(8))),
}


@pytest.mark.parametrize("data", WARNED_OF.values(), ids=WARNED_OF)
def test_the_callers_warning_filters_do_not_change_the_pixels(data: bytes) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = decode_image(data, WARP)
    assert caught
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: decode_image(data, WARP), range(8)))
        assert warnings.filters == filters
    assert all(np.array_equal(pixels, expected) for pixels in found)
