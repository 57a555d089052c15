"""Small files that would keep a decoder busy for minutes are refused; each test has a file at the limit and one above.
The limits are explained in core/codecs/limits.py."""

import struct
import zlib
from contextlib import AbstractContextManager

import pytest
from images import IMAGES, chunk, code_of, decode_image, encode, png, tiff
from PIL import Image

from alexnet_deploy.core.codecs import limits
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
from alexnet_deploy.core.model.preprocessing import WARP
from alexnet_deploy.core.process.memory import MemoryBudget


def refusal_of(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, WARP, limits)
    return f"{caught.value.code}: {caught.value}"


def test_exif_segments_are_joined_one_to_another_so_that_their_number_is_limited() -> None:
    def with_segments(number: int) -> bytes:
        return IMAGES["JPEG"][:2] + b"\xff\xe1\0\x09Exif\0\0M" * number + IMAGES["JPEG"][2:]

    decode_image(with_segments(256), WARP)
    assert refusal_of(with_segments(257)) == "too_large: 257 EXIF segments, the limit is 256"


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_chunks_that_unpack_to_a_megabyte_each_are_limited(kind: bytes) -> None:
    body = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    note = chunk(kind, body + zlib.compress(b"\xff" * 100))
    decode_image(png(1, 1, 8, 0, b"\0\0", before=note * 256), WARP)
    assert refusal_of(png(1, 1, 8, 0, b"\0\0", before=note * 257)).startswith("too_large: 257 compressed chunks")


def test_comments_of_a_pixmap_in_ascii_are_limited() -> None:
    decode_image(b"P2 1 1 255\n" + b"#\n" * 10_000 + b"7 ", WARP)
    assert refusal_of(b"P2 1 1 255\n" + b"#\n" * 10_001 + b"7 ").startswith("too_large: 10,001 comments")
    # In a binary file these bytes are pixels.
    decode_image(b"P5 200 100 255\n" + b"#" * 20_000, WARP)


def test_run_length_coded_bitmaps_are_decoded_in_python_so_that_their_pixels_are_limited() -> None:
    def bitmap(side: int, compression: int) -> bytes:
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, compression, 0, 0, 0, 256, 0)
        return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + bytes(1024) + b"\0\1"

    assert refusal_of(bitmap(2049, 1)) == "too_large: 4,198,401 run-length coded pixels, the limit is 4,194,304"
    assert code_of(bitmap(2048, 1)) == "truncated"
    assert code_of(bitmap(2049, 0)) == "truncated"


@pytest.mark.parametrize("header", ["P6 {} 1 65535 ", "P6 {} 1 100 ", "P3 {} 1 255 "])
def test_pixmaps_that_are_decoded_in_python_are_limited_by_their_values(header: str) -> None:
    assert code_of(header.format(2**22 // 3).encode()) == "truncated"
    refusal = refusal_of(header.format(2**22 // 3 + 1).encode())
    assert refusal.startswith("too_large: 4,194,306 values of a pixmap that is not of 8-bit bytes")
    assert code_of(b"P6 2000000 1 255 ") == "truncated"


@pytest.mark.parametrize("name", ["WEBP", "AVIF", "HEIF"])
def test_decoders_that_keep_copies_take_a_quarter_as_many_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_MEMORY", 0)
    decode_image(IMAGES[name], WARP, DecodeLimits(max_pixels=4 * 64 * 64))
    refusal = refusal_of(IMAGES[name], DecodeLimits(max_pixels=4 * 64 * 64 - 1))
    remedy = "raise it with --max-pixels of predict and serve, or DecodeLimits(max_pixels=16384)"
    assert refusal == f"too_large: its decoder needs 65,536 bytes of memory, the limit is 65,532; {remedy}"


def test_a_small_limit_on_pixels_leaves_a_gibibyte_of_memory() -> None:
    for name in ("WEBP", "AVIF", "HEIF", "JPEG2000"):
        decode_image(IMAGES[name], WARP, DecodeLimits(max_pixels=64 * 64))


@pytest.mark.parametrize(
    ("mode", "subsampling", "num_bytes"), [("L", 0, 3), ("RGB", 2, 7), ("RGB", 0, 10), ("CMYK", 0, 12)]
)
def test_a_progressive_jpeg_is_limited_by_the_coefficients_that_libjpeg_keeps(
    mode: str, subsampling: int, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_MAX_MEMORY", 0)

    def image(progressive: bool) -> bytes:
        return encode(Image.new(mode, (64, 64)), "JPEG", subsampling=subsampling, progressive=progressive)

    # Four bytes for each of max_pixels; 64 x 64 pixels themselves must pass.
    enough = max(64 * 64, 64 * 64 * num_bytes // 4)
    largest = DecodeLimits(max_pixels=enough)
    decode_image(image(True), WARP, largest)
    decode_image(image(False), WARP, largest)
    if num_bytes > 4:
        short = DecodeLimits(max_pixels=enough - 1)
        decode_image(image(False), WARP, short)
        assert "bytes of memory, the limit is" in refusal_of(image(True), short)


@pytest.mark.parametrize(
    ("mode", "options", "num_bytes"),
    [
        ("RGB", {"strip_size": 2**20}, 4 * 64 * 64 + 3 * 64 * 64),
        ("RGB", {"strip_size": 8 * 3 * 64}, 4 * 64 * 64 + 8 * 3 * 64),
        ("L", {"strip_size": 2**20}, 2 * 64 * 64),
        ("1", {"strip_size": 2**20}, 64 * 64 + 8 * 64),
    ],
)
def test_a_compressed_tiff_needs_its_strip_beside_its_pixels(
    mode: str, options: dict[str, int], num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[int] = []

    class Recording(MemoryBudget):
        def reserve(self, num_bytes: int) -> AbstractContextManager[None]:
            reserved.append(num_bytes)
            return super().reserve(num_bytes)

    monkeypatch.setattr("alexnet_deploy.core.images.decode._DECODING", Recording(2**20))
    image = Image.new(mode, (64, 64))
    decode_image(encode(image, "TIFF", compression="tiff_lzw", **options), WARP)
    # An uncompressed one is read row by row.
    decode_image(encode(image, "TIFF"), WARP)
    assert reserved == [num_bytes, 64 * 64 * (4 if mode == "RGB" else 1)]


def test_scans_go_over_10_times_the_largest_images_pixels_together() -> None:
    data = encode(Image.new("L", (64, 64), 100), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scans = {number: data[:-2] + data[last:-2] * (number - data.count(b"\xff\xda")) + data[-2:] for number in (10, 11)}
    largest = DecodeLimits(max_pixels=64 * 64)
    decode_image(scans[10], WARP, largest)
    decode_image(scans[11], WARP, DecodeLimits(max_pixels=2 * 64 * 64))
    assert refusal_of(scans[11], largest) == "too_large: 11 scans, the limit is 10"


def test_what_tiles_hold_beyond_the_image_is_limited() -> None:
    tile = zlib.compress(bytes(16 * 64))
    data = tiff((8,), tile, t256=16, t259=8, t322=16, t323=64, t324=400, t325=len(tile))
    decode_image(data, WARP, DecodeLimits(max_pixels=16 * 32))
    assert refusal_of(data, DecodeLimits(max_pixels=16 * 32 - 1)).startswith("too_large: 1,024 pixels of tiles")


def test_a_tile_whose_size_only_libtiff_would_read_is_refused() -> None:
    tile = zlib.compress(bytes(16 * 64))
    data = tiff((8,), tile, t256=16, t259=8, t322=16, t323=64, t324=400, t325=len(tile))
    # A signed 8-byte type, which Pillow skips.
    hidden = data.replace(struct.pack("<HHI", 323, 3, 1), struct.pack("<HHI", 323, 17, 1))
    assert hidden != data
    assert refusal_of(hidden) == "truncated: TIFF: the size of its tiles is not a number"


def test_strips_that_are_listed_again_and_again_are_limited() -> None:
    def listed(times: int) -> bytes:
        return tiff((8,), bytes(16), t256=8, t257=4, t278=2, t273=(400, 400) * times, t279=16)

    largest = DecodeLimits(max_pixels=32)
    decode_image(listed(5), WARP, largest)
    assert refusal_of(listed(6), largest) == "too_large: 192 pixels of strips, the limit is 160"


def test_strips_of_which_one_begins_in_anothers_first_row_are_refused() -> None:
    def apart(distance: int) -> bytes:
        return tiff((1,), bytes(8), t256=32, t257=2, t278=1, t273=(400, 400 + distance), t279=(4, 4))

    for distance in (0, 4):
        decode_image(apart(distance), WARP)
    assert refusal_of(apart(3)) == "truncated: TIFF: its strips overlap"


def test_strips_whose_bits_are_turned_are_not_larger_than_the_file() -> None:
    def turned(num_bytes: int) -> bytes:
        return tiff((8,), b"\xff\0", t256=1, t259=32773, t266=2, t279=num_bytes)

    decode_image(turned(2), WARP)
    assert refusal_of(turned(60_000)).startswith("too_large: 60,000 bytes of strips")


def test_jpeg_2000_takes_long_for_a_pixel_so_that_fewer_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_JPEG2000", 0)
    data = IMAGES["JPEG2000"]
    decode_image(data, WARP, DecodeLimits(max_pixels=8 * 64 * 64))
    largest = DecodeLimits(max_pixels=8 * 64 * 64 - 1)
    assert refusal_of(data, largest) == "too_large: 4,096 pixels of JPEG 2000, the limit is 4,095"
