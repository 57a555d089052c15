"""The C++ library decodes and resizes to the same pixels as Python, to the bit, and refuses with the same code."""

import io
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from cpp_library import decode, difference, is_read, outcome, python_outcome, to_square
from hypothesis import given, settings
from hypothesis import strategies as st
from images import POLICIES, chunk, encode, noise, png
from mutations import first_mutants
from PIL import Image, ImageCms

from alexnet_deploy.core.golden.files import golden_files
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.images.resize import to_square as python_square
from alexnet_deploy.core.model.preprocessing import IMAGE_POLICIES, SHORTER_SIDE, WARP, ImagePolicy, ResizePolicy

CORPUS = Path(sys.prefix) / f"pillow-{PIL.__version__}-images"
PHOTOGRAPHS = os.environ.get("ALEXNET_DEPLOY_PHOTOGRAPHS")

SMALL = 2**22


def assert_same(data: bytes, name: str, policy: ImagePolicy) -> None:
    _, what = difference(data, policy, max_pixels=SMALL)
    assert what is None, (name, what)


@pytest.mark.parametrize("policy", IMAGE_POLICIES, ids=str)
def test_golden_files_have_their_pixels(policy: ImagePolicy) -> None:
    for file in golden_files(policy):
        np.testing.assert_array_equal(decode(file.data, policy), file.pixels, err_msg=file.name)


def _photograph(width: int, height: int) -> Image.Image:
    rough = Image.fromarray(noise(7, 5)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.blend(rough, Image.fromarray(noise(width, height)), 0.2)


# At a half in each colour layout, at a quarter and an eighth, and just too small for them.
SCALED_FORMS = (
    ("RGB", 1024, 1025, {"subsampling": 0}),
    ("RGB", 1203, 1031, {"subsampling": 1}),
    ("RGB", 1031, 1203, {"subsampling": 2}),
    ("RGB", 1100, 1031, {"subsampling": 2, "progressive": True}),
    ("L", 1033, 1024, {}),
    ("CMYK", 1027, 1029, {}),
    ("RGB", 1023, 1400, {"subsampling": 2}),
    ("RGB", 2051, 2047, {"subsampling": 2}),
    ("RGB", 2051, 2048, {"subsampling": 2}),
    ("RGB", 4099, 4096, {"subsampling": 2}),
)


@pytest.mark.parametrize(("mode", "width", "height", "options"), SCALED_FORMS, ids=str)
def test_scaled_files_have_pythons_pixels(mode: str, width: int, height: int, options: dict[str, Any]) -> None:
    data = encode(_photograph(width, height).convert(mode), "JPEG", quality=85, **options)
    policy = ImagePolicy(resize="shorter-side", decode="scaled")
    found = decode(data, policy)
    np.testing.assert_array_equal(found, decode_image(data, policy))
    is_scaled = min(width, height) >= 1024
    assert np.array_equal(found, decode(data, SHORTER_SIDE)) != is_scaled


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["shorter-side", "warp"])
def test_scaled_files_are_turned_as_python_turns_them(resize: ResizePolicy, orientation: int) -> None:
    data = _with_orientation(_photograph(1203, 1031), orientation, "JPEG")
    policy = ImagePolicy(resize=resize, decode="scaled")
    np.testing.assert_array_equal(decode(data, policy), decode_image(data, policy))


def _with_orientation(image: Image.Image, orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, form, exif=exif)


def _wide_profile() -> bytes:
    """Return an sRGB profile with red and green colorants exchanged: a gamut that cannot be taken for sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


def drawn_files() -> dict[str, bytes]:
    photograph, small = _photograph(403, 301), _photograph(61, 47)
    grey, alpha = photograph.convert("L"), photograph.convert("RGBA")
    alpha.putalpha(grey)
    palette = small.quantize(50)
    files = {
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(photograph.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(photograph, "JPEG", progressive=True, quality=60),
        "restarts.jpg": encode(photograph, "JPEG", restart_marker_rows=1),
        "wide.jpg": encode(photograph, "JPEG", icc_profile=_wide_profile()),
        "srgb.jpg": encode(
            photograph, "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        "tall.jpg": encode(_photograph(9, 1300), "JPEG"),
        "flat.jpg": encode(_photograph(3000, 11), "JPEG"),
        "pixel.png": encode(_photograph(1, 1), "PNG"),
        "tall.png": encode(_photograph(3, 700), "PNG"),
        "grey.png": encode(grey, "PNG"),
        "bilevel.png": encode(grey.convert("1"), "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "grey-alpha.png": encode(alpha.convert("LA"), "PNG"),
        "wide.png": encode(photograph, "PNG", icc_profile=_wide_profile()),
        "wide-grey.png": encode(grey, "PNG", icc_profile=_wide_profile()),
        "p3.png": _with_chunk(encode(photograph, "PNG"), chunk(b"cICP", bytes([12, 13, 0, 1]))),
        "hdr.png": _with_chunk(encode(photograph, "PNG"), chunk(b"cICP", bytes([9, 16, 0, 1]))),
        "palette.png": encode(palette, "PNG", bits=8),
        "palette-key.png": encode(palette, "PNG", transparency=7),
        "palette-alphas.png": encode(palette, "PNG", transparency=bytes(range(0, 250, 5))),
        "grey16.png": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "animated.png": encode(small, "PNG", save_all=True, append_images=[small.rotate(180)]),
    }
    for subsampling in (0, 1, 2):
        files[f"subsampled-{subsampling}.jpg"] = encode(photograph, "JPEG", subsampling=subsampling, quality=85)
    for orientation in range(9):
        files[f"turned-{orientation}.jpg"] = _with_orientation(small, orientation, "JPEG")
        files[f"turned-{orientation}.png"] = _with_orientation(small, orientation, "PNG")
    return files | _raw_pngs()


def _with_chunk(data: bytes, added: bytes) -> bytes:
    return data[:33] + added + data[33:]


def _raw_pngs() -> dict[str, bytes]:
    """Return a PNG of every depth and colour type, of every filter, with and without a transparent colour."""
    width, height = 23, 19
    files = {}
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    for colour, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
        for depth in depths:
            row_bytes = (width * depth * samples[colour] + 7) // 8
            rows = np.random.default_rng(depth).integers(0, 256, (height, 1 + row_bytes), dtype=np.uint8)
            rows[:, 0] = np.arange(height) % 5
            before = chunk(b"PLTE", noise(16, 16).tobytes()) if colour == 3 else b""
            name = f"colour-{colour}-depth-{depth}"
            files[f"{name}.png"] = png(width, height, depth, colour, rows.tobytes(), before=before)
            if colour in (0, 2):
                key = chunk(b"tRNS", bytes([0, 1] * samples[colour]))
                files[f"{name}-key.png"] = png(width, height, depth, colour, rows.tobytes(), before=key)
                files[f"{name}-late-key.png"] = png(width, height, depth, colour, rows.tobytes(), after=key)
    return files


DRAWN = drawn_files()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", DRAWN)
def test_drawn_files_have_the_same_outcome(name: str, policy: ImagePolicy) -> None:
    assert_same(DRAWN[name], name, policy)


def test_most_drawn_files_are_decoded() -> None:
    refused = {name for name, data in DRAWN.items() if isinstance(outcome(data, WARP), str)}
    assert refused == {"hdr.png"}


@pytest.mark.parametrize("name", ["baseline", "progressive", "png"])
def test_truncated_files_are_refused(name: str) -> None:
    image = _photograph(90, 70)
    data = encode(image, "PNG") if name == "png" else encode(image, "JPEG", progressive=name == "progressive")
    for length in {1, 2, 3, 30, 200, len(data) // 3, len(data) // 2, len(data) - 40}:
        assert_same(data[:length], f"{name} {length}", WARP)
        assert isinstance(outcome(data[:length], WARP), str)
    # A PNG's pixels end before its last bytes.
    for length in range(len(data) - 40, len(data)):
        assert_same(data[:length], f"{name} {length}", WARP)


def test_an_image_smaller_than_its_first_frame_is_refused() -> None:
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 90, 70, 0, 0, 1, 10, 0, 0))
    smaller = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0))
    data = encode(_photograph(90, 70), "PNG")
    assert isinstance(outcome(_with_chunk(data, frame), WARP), np.ndarray)
    assert_same(_with_chunk(data, frame), "whole", WARP)
    assert_same(_with_chunk(data, frame + smaller), "smaller", WARP)
    assert outcome(_with_chunk(data, frame + smaller), WARP) == "truncated"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_other_formats_are_refused_by_name(form: str) -> None:
    assert outcome(encode(_photograph(30, 20), form), WARP) == "unsupported_format"


def test_damaged_files_have_the_same_outcome() -> None:
    num_decoded = 0
    for name, data in first_mutants(5, 1500):
        if not name.startswith("jpeg-progressive"):
            assert_same(data, name, WARP)
            continue
        # Where scans are missing, libjpeg-turbo smooths the blocks: version 3, as in Pillow, does it in another way.
        found, expected = (find(data, WARP, max_pixels=SMALL) for find in (outcome, python_outcome))
        assert isinstance(found, str) == isinstance(expected, str), (name, found, expected)
        num_decoded += not isinstance(found, str)
        assert not isinstance(found, str) or found == expected, (name, found, expected)
    assert num_decoded > 5


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"Pillow's test images are not in {CORPUS}: scripts/setup fetches them")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("most_bytes", [60_000, pytest.param(10**9, marks=pytest.mark.slow)])
def test_pillows_own_images_have_the_same_outcome(most_bytes: int, policy: ImagePolicy) -> None:
    found = [path for path in sorted(CORPUS.rglob("*")) if path.is_file() and path.stat().st_size <= most_bytes]
    read = [path for path in found if is_read(path.read_bytes())]
    assert len(read) > 300
    for path in read:
        assert_same(path.read_bytes(), path.name, policy)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS, reason="ALEXNET_DEPLOY_PHOTOGRAPHS names no folder")
@pytest.mark.parametrize("policy", POLICIES)
def test_photographs_have_the_same_pixels(policy: ImagePolicy) -> None:
    assert PHOTOGRAPHS is not None
    for path in sorted(Path(PHOTOGRAPHS).rglob("*.jpg")):
        np.testing.assert_array_equal(decode(path.read_bytes(), policy), decode_image(path.read_bytes(), policy))


@settings(max_examples=60)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    policy=st.sampled_from(POLICIES),
    pixel_format=st.sampled_from(["RGB", "BGR", "RGBA", "BGRA", "GREY"]),
    padding=st.integers(0, 9),
    is_flipped=st.booleans(),
)
def test_frames_of_every_layout_have_the_same_pixels(
    width: int, height: int, policy: ImagePolicy, pixel_format: str, padding: int, is_flipped: bool
) -> None:
    rgb = noise(width, height, seed=width)
    order = {"RGB": [0, 1, 2], "BGR": [2, 1, 0], "RGBA": [0, 1, 2, 0], "BGRA": [2, 1, 0, 0], "GREY": [0]}[pixel_format]
    stored = np.zeros((height, width + padding, len(order)), np.uint8)
    view = stored[::-1] if is_flipped else stored
    view[:, :width] = rgb[:, :, order]
    expected = python_square(Image.fromarray(rgb[:, :, [0, 0, 0]] if pixel_format == "GREY" else rgb), policy.resize)
    np.testing.assert_array_equal(to_square(view[:, :width], pixel_format, policy), expected)


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (2, 20_000), (20_000, 1), (300, 257), (256, 256), (7, 701)])
@pytest.mark.parametrize("policy", POLICIES)
def test_long_frames_have_the_same_pixels(width: int, height: int, policy: ImagePolicy) -> None:
    rgb = noise(width, height)
    np.testing.assert_array_equal(to_square(rgb, "RGB", policy), python_square(Image.fromarray(rgb), policy.resize))


def test_a_bomb_is_refused_from_its_header() -> None:
    file = io.BytesIO(encode(_photograph(64, 48), "PNG"))
    assert outcome(file.getvalue(), WARP, max_pixels=64 * 48 - 1) == "too_large"
    assert isinstance(outcome(file.getvalue(), WARP, max_pixels=64 * 48), np.ndarray)
