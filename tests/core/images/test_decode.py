import io
import os
import resource
import struct
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from commands import HANGS_AFTER_S
from hypothesis import given, settings
from hypothesis import strategies as st
from images import (
    BLUE,
    IMAGES,
    POLICIES,
    RED,
    WHITE,
    chunk,
    code_of,
    colour_of,
    encode,
    noise,
    outcome,
    png,
    read_code,
    tiff,
)
from PIL import Image, ImageFile

from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.images.decode import (
    ALLOWED_FORMATS,
    DEFAULT_LIMITS,
    DecodeLimits,
    convert_image,
    decode_image,
    decode_pixels,
    read_image,
)
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP, ImagePolicy, ResizePolicy
from alexnet_deploy.core.process.memory import MemoryBudget


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "empty", id="no bytes"),
        pytest.param(b"This is no image.\n" * 50, "not_an_image", id="text"),
        pytest.param(b"BMW, P5 and GIF are words", "not_an_image", id="text like a bitmap"),
        pytest.param(b"P1 is the first of them", "not_an_image", id="text like a pixmap"),
        pytest.param(b"\xff\xd8", "not_an_image", id="two bytes of a JPEG"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image", id="sound"),
        pytest.param(b"qoif\0\0\0\x10\0\0\0\x10\3\0", "unsupported_format", id="QOI"),
        pytest.param(encode(Image.new("RGB", (16, 16)), "ICO"), "unsupported_format", id="ICO"),
        pytest.param(b"8BPS\0\1", "unsupported_format", id="PSD"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "truncated", id="first box of a HEIC"),
        pytest.param(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "truncated", id="first box of an AVIF"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format", id="EPS"),
        pytest.param(encode(Image.new("F", (4, 4)), "TIFF"), "unsupported_format", id="float TIFF"),
        pytest.param(encode(Image.new("I", (4, 4)), "TIFF"), "unsupported_format", id="32-bit TIFF"),
        pytest.param(encode(Image.new("LAB", (4, 4)), "TIFF"), "unsupported_format", id="LAB TIFF"),
        pytest.param(tiff((16, 16), bytes(4)), "unsupported_format", id="TIFF of two bands"),
        pytest.param(tiff((8,) * 7, bytes(70)), "unsupported_format", id="TIFF of seven bands"),
        pytest.param(encode(Image.new("F", (4, 4)), "PPM"), "unsupported_format", id="float PPM"),
        pytest.param(IMAGES["BMP"][:28] + b"\2" + IMAGES["BMP"][29:], "unsupported_format", id="2-bit BMP"),
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
    assert code_of(IMAGES[name][: int(len(IMAGES[name]) * share)]) == "truncated"


@pytest.mark.parametrize("name", sorted(set(ALLOWED_FORMATS) - {"BMP", "PPM"}))
def test_a_file_that_ends_in_its_header_is_truncated(name: str) -> None:
    assert code_of(IMAGES[name][:14]) == "truncated"


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png(20_000, 20_000, 1, 0, bytes(2501 * 20_000))
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it was decoded"))
    assert code_of(bomb) == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 20_000


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**30)
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_code(tmp_path / "sparse") == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 20_000


def test_an_image_that_memory_does_not_hold_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", no_memory)
    assert code_of(encode(Image.new("L", (4, 4)), "PNG")) == "too_large"


def test_limits_are_inclusive(tmp_path: Path) -> None:
    path, data = tmp_path / "a.png", IMAGES["PNG"]
    path.write_bytes(data)
    exact = DecodeLimits(max_pixels=64 * 64, max_bytes=len(data))
    assert np.array_equal(read_image(path, WARP, exact), decode_image(data, WARP))
    for limits in (DecodeLimits(max_pixels=64 * 64 - 1), DecodeLimits(max_bytes=len(data) - 1)):
        assert code_of(data, limits) == "too_large"
        with pytest.raises(ImageError) as caught:
            read_image(path, WARP, limits)
        assert caught.value.code == "too_large"


def test_a_limit_above_the_size_that_pillow_warns_of_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    for name, data in IMAGES.items():
        # Some formats have a lower pixel limit, see test_limits.py.
        largest = 64 * 64 * {"JPEG2000": 4, "WEBP": 2, "AVIF": 2, "HEIF": 2}.get(name, 1)
        assert decode_image(data, WARP, DecodeLimits(max_pixels=largest)).shape == (256, 256, 3)
        assert code_of(data, DecodeLimits(max_pixels=64 * 64 - 1)) == "too_large"


def test_any_number_of_pixels_may_be_allowed_and_the_default_admits_108_million(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert DEFAULT_LIMITS.max_pixels >= 12_000 * 9_000
    # Pillow's own limit; 4,096 pixels are more than twice as many.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name in ("JPEG", "PNG", "TIFF"):
        assert decode_image(IMAGES[name], WARP, DecodeLimits(max_pixels=10**9)).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("data", "limits", "refusal"),
    [
        (
            IMAGES["PNG"],
            DecodeLimits(max_pixels=4095),
            (
                "64 x 64 is 4,096 pixels, the limit is 4,095; raise it with --max-pixels of predict and serve, or "
                "DecodeLimits(max_pixels=4096)"
            ),
        ),
        (bytes(10), DecodeLimits(max_bytes=9), "10 bytes, the limit is 9; raise it with DecodeLimits(max_bytes=10)"),
    ],
    ids=["pixels", "bytes"],
)
def test_the_refusal_of_a_large_image_names_the_option(data: bytes, limits: DecodeLimits, refusal: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data, WARP, limits)
    assert str(caught.value) == refusal


@pytest.mark.parametrize("name", ["PNG", "HEIF"])
def test_no_more_images_are_decoded_at_a_time_than_the_budget_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"PNG": 4, "HEIF": 16}[name] * 64 * 64
    monkeypatch.setattr("alexnet_deploy.core.images.decode._DECODING", MemoryBudget(2 * needed + needed // 2))
    at_once, most = 0, 0
    both, lock = threading.Barrier(2), threading.Lock()

    def counting(image: Image.Image) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        both.wait(timeout=HANGS_AFTER_S)
        with lock:
            at_once -= 1

    monkeypatch.setattr("alexnet_deploy.core.images.decode.rgb_conversion", counting)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: decode_image(IMAGES[name], WARP), range(6)))
    assert most == 2
    assert all(np.array_equal(found[0], pixels) for pixels in found)


@pytest.mark.parametrize("limits", [{"max_pixels": 0}, {"max_bytes": 0}], ids=str)
def test_a_limit_that_admits_nothing_is_wrong_use(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        DecodeLimits(**limits)


@contextmanager
def unprivileged_folder() -> Iterator[Path]:
    """A folder whose permissions apply to the tests even if they run as root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        user = os.geteuid()
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 \xff.jpg")
    path.write_bytes(IMAGES["PNG"])
    link = tmp_path / "link"
    link.symlink_to(path)
    assert np.array_equal(read_image(path, WARP), decode_image(IMAGES["PNG"], WARP))
    assert np.array_equal(read_image(link, WARP), decode_image(IMAGES["PNG"], WARP))


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
        path.write_bytes(IMAGES["PNG"])
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


@pytest.mark.parametrize("policy", POLICIES)
def test_an_image_of_the_right_size_is_untouched(policy: ImagePolicy) -> None:
    stored = noise(256, 256)
    pixels = decode_image(encode(Image.fromarray(stored), "PNG"), policy)
    assert np.array_equal(pixels, stored)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("width", [257, 341, 512, 768])
def test_shorter_side_of_256_is_cut_not_resampled(width: int) -> None:
    stored, left = noise(width, 256), (width - 256) // 2
    wide, tall = Image.fromarray(stored), Image.fromarray(stored.swapaxes(0, 1))
    middle = stored[:, left : left + 256]
    assert np.array_equal(decode_image(encode(wide, "PNG"), SHORTER_SIDE), middle)
    assert np.array_equal(decode_image(encode(tall, "PNG"), SHORTER_SIDE), middle.swapaxes(0, 1))


def triangle_weights(length: int, start: float, side: float) -> np.ndarray:
    """Weights (256, length) of the antialiased bilinear filter that resizes `side` pixels from `start` on to 256."""
    scale = side / 256
    centres = start + (np.arange(256) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1))
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(500, 375), (300, 801), (100, 80), (37, 256)], ids=str)
def test_resizing_is_the_antialiased_bilinear_filter(size: tuple[int, int], policy: ImagePolicy) -> None:
    width, height = size
    across, down, left, top = float(width), float(height), 0, 0
    if policy == SHORTER_SIDE:
        across = down = min(size)
        left, top = (width - int(across)) // 2, (height - int(down)) // 2
    stored = noise(width, height)
    rows, columns = triangle_weights(height, top, down), triangle_weights(width, left, across)
    expected = np.einsum("yh,xw,hwc->yxc", rows, columns, stored.astype(np.float64), optimize=True)
    # Pillow rounds after each of its two passes.
    assert np.abs(decode_image(encode(Image.fromarray(stored), "PNG"), policy) - expected).max() <= 1.01


def test_shorter_side_keeps_the_middle_and_warp_keeps_all() -> None:
    stripes = np.repeat(np.array([[RED, WHITE, BLUE]], np.uint8), 300, axis=1).repeat(300, axis=0)
    data = encode(Image.fromarray(stripes), "PNG")
    assert colour_of_middle(decode_image(data, SHORTER_SIDE)) == [[255, 255, 255]] * 3
    assert colour_of_middle(decode_image(data, WARP)) == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


SCALED = ImagePolicy(resize="shorter-side", decode="scaled")


@pytest.mark.parametrize(
    ("size", "scale"),
    [((1023, 3000), 1), ((1024, 1024), 2), ((2500, 2047), 2), ((2048, 2050), 4), ((4095, 4100), 4), ((4097, 4096), 8)],
    ids=str,
)
def test_scaled_keeps_512_pixels_of_the_shorter_side(size: tuple[int, int], scale: int) -> None:
    data = encode(Image.new("RGB", size, BLUE), "JPEG")
    scaled = decode_pixels(data, "scaled")
    assert scaled.size == tuple(-(-side // scale) for side in size)
    assert decode_pixels(data, "exact").size == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["shorter-side", "warp"])
def test_scaled_pixels_are_nearly_the_exact_ones(resize: ResizePolicy, orientation: int) -> None:
    # Off by 0.3 on average; by 2 or more if the box forgets on which side the last part of a pixel lies.
    rough = Image.fromarray(noise(64, 60, seed=1)).resize((2413, 2107), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(rough, "JPEG", quality=90, exif=exif)
    exact, scaled = (
        decode_image(data, ImagePolicy(resize=resize, decode=decode)).astype(int) for decode in ("exact", "scaled")
    )
    assert 0 < np.abs(scaled - exact).mean() < 0.5


@pytest.mark.parametrize("name", sorted(set(IMAGES) - {"JPEG", "HEIF"}))
def test_other_formats_are_not_scaled(name: str) -> None:
    data = encode(Image.fromarray(noise(1030, 1030)), name)
    assert np.array_equal(decode_image(data, SCALED), decode_image(data, SHORTER_SIDE))


def test_an_image_in_memory_is_not_scaled() -> None:
    data = encode(Image.fromarray(noise(1030, 1030)), "JPEG")
    found = convert_image(Image.open(io.BytesIO(data)), SCALED)
    assert np.array_equal(found, decode_image(data, SHORTER_SIDE))
    assert not np.array_equal(found, decode_image(data, SCALED))


def colour_of_middle(pixels: np.ndarray) -> list[list[int]]:
    colours: list[list[int]] = pixels[128, [10, 128, 245]].tolist()
    return colours


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_line_of_pixels_is_an_image(size: tuple[int, int], policy: ImagePolicy) -> None:
    assert colour_of(encode(Image.new("RGB", size, BLUE), "PNG"), policy) == BLUE


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)], ids=str)
def test_the_central_square_of_a_line_is_one_pixel(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, BLUE)
    image.putpixel(((size[0] - 1) // 2, (size[1] - 1) // 2), RED)
    assert decode_image(encode(image, "PNG"), SHORTER_SIDE)[128, 128].tolist() == [255, 0, 0]


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


@settings(max_examples=100)
@given(
    kind=st.sampled_from([(name, mode) for name, modes in MODES.items() for mode in modes]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    policy=st.sampled_from(POLICIES),
)
def test_any_image_is_256_by_256_or_refused_and_always_the_same(
    kind: tuple[str, str], size: tuple[int, int], policy: ImagePolicy
) -> None:
    name, mode = kind
    image = Image.fromarray(noise(*size))
    image = image.convert("L").convert(mode) if mode in ("I;16", "I", "F") else image.convert(mode)
    data = encode(image, name)
    if kind in UNDEFINED_RANGE:
        assert code_of(data) == "unsupported_format"
        return
    pixels = decode_image(data, policy)
    assert pixels.shape == (256, 256, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, decode_image(data, policy))


@settings(max_examples=150)
@given(
    name=st.sampled_from(ALLOWED_FORMATS),
    keep=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8),
    in_header=st.booleans(),
)
def test_a_damaged_file_is_an_image_or_an_image_error(
    name: str, keep: float, changes: list[tuple[float, int]], in_header: bool
) -> None:
    data = bytearray(IMAGES[name])
    for place, value in changes:
        data[int(place * (120 if in_header else len(data)))] = value
    if not changes:
        data = data[: int(keep * len(data))]
    result = outcome(bytes(data), DecodeLimits(max_pixels=100_000))
    assert isinstance(result, ImageErrorCode) or result.shape == (256, 256, 3)


def _with_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated without changing the pixels."""
    data = encode(Image.new("L", (64, 64), 100), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (num_scans - data.count(b"\xff\xda")) + data[-2:]


def test_a_jpeg_of_more_scans_than_the_limit_is_refused_undecoded() -> None:
    assert colour_of(_with_scans(100)) == (100, 100, 100)
    with pytest.raises(ImageError, match=r"^8,000 scans, the limit is 100$") as caught:
        decode_image(_with_scans(8000), WARP)
    assert caught.value.code is ImageErrorCode.TOO_LARGE
    assert code_of(_with_scans(9), DecodeLimits(max_scans=8)) is ImageErrorCode.TOO_LARGE
    with pytest.raises(
        UsageError, match=r"^limits must be 1 or more, got max_pixels 268435456, max_bytes 268435456 and max_scans 0$"
    ):
        DecodeLimits(max_scans=0)


def test_what_looks_like_scans_beside_the_image_counts_for_none() -> None:
    data = _with_scans(6)
    note = b"\xff\xe1" + (2 + 400).to_bytes(2, "big") + b"\xff\xda" * 200
    film = b"\xff\xda\0\x02" * 1000
    assert colour_of(data[:2] + note + data[2:] + film) == (100, 100, 100)
