"""A file with too many segments, chunks or blocks is refused: for each kind, a file at the limit and one above it."""

import struct

import pytest
from images import IMAGES, chunk, decode_image, encode, png, tiff
from PIL import Image

from alexnet_deploy.core.codecs.parts import MAX_PARTS
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.model.preprocessing import WARP


def refusal_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, WARP)
    return f"{caught.value.code}: {caught.value}"


def with_segments(segments: bytes, before: bytes = b"\xff\xda") -> bytes:
    place = IMAGES["JPEG"].index(before)
    return IMAGES["JPEG"][:place] + segments + IMAGES["JPEG"][place:]


@pytest.mark.parametrize("before", [b"\xff\xdb", b"\xff\xda"], ids=["before the frame", "after the frame"])
@pytest.mark.parametrize("segment", [b"\xff\xe1\0\2", b"\xff\xfe\0\2", b"\xff\xd0"], ids=["note", "comment", "restart"])
def test_segments_are_limited_on_both_sides_of_the_frame(segment: bytes, before: bytes) -> None:
    # The image's own segments: JFIF, two quantisation tables, the frame, four Huffman tables, the scan.
    present = 9
    decode_image(with_segments(segment * (MAX_PARTS - present), before), WARP)
    refusal = refusal_of(with_segments(segment * (MAX_PARTS - present + 1), before))
    assert refusal == "too_large: 65,537 segments, the limit is 65,536"


@pytest.mark.parametrize("stray", [b"\xff", b"\x55", b"\xff\0"], ids=["fill", "junk", "stuffed"])
def test_bytes_between_segments_are_limited(stray: bytes) -> None:
    decode_image(with_segments(stray * (2**17 // len(stray))), WARP)
    assert "bytes between segments, the limit is 262,144" in refusal_of(with_segments(stray * 2**19))


def test_tables_are_limited() -> None:
    # No component uses table 3.
    table = b"\xff\xdb\0\x43\x03" + b"\1" * 64
    decode_image(with_segments(table * 900), WARP)
    assert "bytes of tables, the limit is 65,536" in refusal_of(with_segments(table * 1000))


def test_resources_of_photoshop_are_limited() -> None:
    def with_resources(number: int) -> bytes:
        segment = b"Photoshop 3.0\0" + (b"8BIM\4\4\0\0\0\0\0\0" * 2000)
        return with_segments((b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment) * (number // 2000))

    decode_image(with_resources(10_000), WARP)
    assert refusal_of(with_resources(12_000)) == "too_large: 12,000 Photoshop resources, the limit is 10,000"


def test_notes_of_a_jpeg_are_limited() -> None:
    note = b"\xff\xe2\xff\xff" + bytes(65533)
    decode_image(with_segments(note * 1000), WARP)
    assert "bytes before its pixels, the limit is 67,108,864" in refusal_of(with_segments(note * 1025))


@pytest.mark.parametrize("kind", [b"prVt", b"tEXt", b"IDAT"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_chunks_are_limited_on_both_sides_of_the_pixels(kind: bytes, place: str) -> None:
    empty = chunk(kind, b"k\0x" if kind == b"tEXt" else b"")

    def with_chunks(number: int) -> bytes:
        if place == "before":
            return png(1, 1, 8, 0, b"\0\0", before=empty * number)
        plain = png(1, 1, 8, 0, b"\0\0")
        return plain[:-12] + empty * number + plain[-12:]

    decode_image(with_chunks(MAX_PARTS - 3), WARP)
    assert refusal_of(with_chunks(MAX_PARTS - 2)) == "too_large: 65,537 chunks, the limit is 65,536"


def test_chunks_after_the_end_do_not_count() -> None:
    decode_image(png(1, 1, 8, 0, b"\0\0") + chunk(b"prVt", b"") * MAX_PARTS, WARP)


def test_notes_of_a_png_are_limited() -> None:
    decode_image(png(1, 1, 8, 0, b"\0\0", before=chunk(b"prVt", bytes(2**26 - 13))), WARP)
    refusal = refusal_of(png(1, 1, 8, 0, b"\0\0", before=chunk(b"prVt", bytes(2**26 - 12))))
    assert refusal == "too_large: 67,108,865 bytes besides its pixels, the limit is 67,108,864"


@pytest.mark.parametrize(
    ("block", "parts"), [(b"!\xfe\1x\0", 2), (b"!\x42\0\0", 1), (b"\0", 1)], ids=["comment", "empty", "junk"]
)
def test_blocks_before_a_gifs_first_image_are_limited(block: bytes, parts: int) -> None:
    plain = encode(Image.new("P", (8, 8), 3), "GIF")
    image = plain.index(b",", 13)

    def with_blocks(number: int) -> bytes:
        return plain[:image] + block * number + plain[image:]

    decode_image(with_blocks(MAX_PARTS // parts - 4), WARP)
    assert refusal_of(with_blocks(MAX_PARTS // parts + 1)).startswith("too_large: 65,537 blocks before its first image")


def test_the_strips_of_a_tiff_are_limited_from_its_directory() -> None:
    def with_strips(number: int) -> bytes:
        # Rows of one pixel, one after the other, then the offset of each row.
        raster = bytes(number) + b"".join(struct.pack("<I", 400 + row) for row in range(number))
        data = tiff((8,), raster, t256=1, t278=1, t279=1)
        rows, places = data.index(struct.pack("<HHI", 257, 3, 1)), data.index(struct.pack("<HHI", 273, 3, 1))
        data = data[:rows] + struct.pack("<HHII", 257, 4, 1, number) + data[rows + 12 :]
        return data[:places] + struct.pack("<HHII", 273, 4, number, 400 + number) + data[places + 12 :]

    decode_image(with_strips(MAX_PARTS), WARP)
    assert refusal_of(with_strips(MAX_PARTS + 1)).startswith("too_large: 65,537 values of the TIFF's tag 273")


def test_values_that_a_short_file_only_promises_do_not_count() -> None:
    data = tiff((8,), bytes(16), t256=4, t257=4, t278=4, t282=7)
    at = data.index(struct.pack("<H", 282))
    decode_image(data[:at] + struct.pack("<HHII", 282, 5, 2**30, 400) + data[at + 12 :], WARP)


def test_the_entries_of_a_tiffs_directory_are_limited() -> None:
    big = (
        b"II+\0\x08\0\0\0"
        + struct.pack("<QQ", 16, MAX_PARTS + 1)
        + struct.pack("<HHQQ", 256, 3, 1, 8) * (MAX_PARTS + 1)
    )
    assert refusal_of(big).startswith("too_large: 65,537 entries in the TIFF's directory")
