"""Which files are images, which formats are supported, and the names of unsupported formats."""

import io
import struct
import sys

import numpy as np
import pillow_heif
import pytest
from images import IMAGES, QUADRANTS, RED, WHITE, code_of, colour_of, encode, noise, tiff
from PIL import Image, features

from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import ALLOWED_FORMATS, DecodeLimits, decode_image
from alexnet_deploy.core.model.preprocessing import WARP


def refusal_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, WARP)
    return f"{caught.value.code}: {caught.value}"


def with_second_directory(**tags: int) -> bytes:
    """A grey TIFF of 8 x 1 whose tag 330 points to a directory of these tags."""
    entries = b"".join(struct.pack("<HHII", int(tag[1:]), 4, 1, value) for tag, value in sorted(tags.items()))
    return tiff((8,), bytes(8), t330=408) + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg_of_frame(marker: int, precision: int) -> bytes:
    data = IMAGES["JPEG"]
    place = data.index(b"\xff\xc0")
    return data[: place + 1] + bytes([marker]) + data[place + 2 : place + 4] + bytes([precision]) + data[place + 5 :]


def boxes(brand: bytes, *others: bytes) -> bytes:
    return struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + brand + bytes(4) + b"".join(others) + bytes(100)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"II*\0\x10\0\0\0CR\2\0", "Canon CR2 raw"),
        (boxes(b"crx ", b"isom"), "Canon CR3 raw"),
        (b"IIRO\x08\0\0\0", "Olympus ORF raw"),
        (b"IIU\0\x18\0\0\0", "Panasonic RW2 raw"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAF raw"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b'<?xml version="1.0"?>\n<!-- a -- note --><svg width="4"/>', None),
        (b'<?xml version="1.0"?>\n<!-- a note -->\n<svg width="4"/>', "SVG"),
        (b'\xef\xbb\xbf  <svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<html><body><svg></svg></body></html>", None),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
        (b"8BPS\0\1", "PSD"),
        (b"gimp xcf v011\0", "XCF"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"qoif\0\0\0\x10\0\0\0\x10\3\0", "QOI"),
        (b"DDS \x7c\0\0\0", "DDS"),
        (b"\xabKTX 20\xbb", "KTX"),
        (b"BPG\xfb", "BPG"),
        (encode(Image.new("RGB", (16, 16)), "ICO"), "ICO or CUR"),
        (jpeg_of_frame(0xC1, 12), "JPEG of 12 bits per sample"),
        (jpeg_of_frame(0xF7, 8), "JPEG-LS"),
        (jpeg_of_frame(0xC5, 8), "hierarchical or arithmetic lossless JPEG"),
        (b"PK\3\4" + bytes(60), None),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_a_sound_file_that_is_not_read_is_called_by_its_name(data: bytes, name: str | None) -> None:
    if name is None:
        assert refusal_of(data) == "not_an_image: no decoder recognises its header"
    else:
        assert (
            refusal_of(data)
            == f"unsupported_format: {name} is not supported: supported formats are {', '.join(ALLOWED_FORMATS)}"
        )


@pytest.mark.parametrize("brand", [b"qt  ", b"isom", b"mp42", b"3gp5"])
def test_a_video_is_no_image_and_is_called_one(brand: bytes) -> None:
    assert refusal_of(boxes(brand, b"isom")) == "not_an_image: it is a video (MP4 or QuickTime)"


REMEDY = "is not supported; convert it to JPEG, PNG or plain TIFF"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(tiff((8,), bytes(8), t254=1, t50706=1), f"DNG {REMEDY}", id="DNG"),
        pytest.param(tiff((8,), bytes(8), t50706=1), f"DNG {REMEDY}", id="DNG, whole first"),
        pytest.param(
            encode(Image.new("RGB", (8, 8)), "TIFF", tiffinfo={254: 1, 271: "NIKON CORPORATION"}),
            f"Nikon raw {REMEDY}",
            id="NEF",
        ),
        pytest.param(tiff((8,), bytes(8), t259=34713), f"Nikon raw {REMEDY}", id="NEF, coded"),
        pytest.param(tiff((8,), bytes(8), t259=32767), f"Sony raw {REMEDY}", id="ARW, coded"),
        pytest.param(tiff((8,), bytes(8), photometric=32803), f"camera raw {REMEDY}", id="colour filter array"),
        pytest.param(
            with_second_directory(t254=0, t256=4000, t262=32803),
            f"TIFF that starts with a preview of a later image {REMEDY}",
            id="raw below",
        ),
        pytest.param(
            with_second_directory(t254=0, t256=9),
            f"TIFF that starts with a preview of a later image {REMEDY}",
            id="whole",
        ),
        pytest.param(
            tiff((8,), bytes(8), t254=1), f"TIFF that starts with a reduced image {REMEDY}", id="thumbnail first"
        ),
        pytest.param(
            tiff((8,), bytes(8), t255=2), f"TIFF that starts with a reduced image {REMEDY}", id="old thumbnail"
        ),
        pytest.param(tiff((8,), bytes(8), t259=34712), "TIFF: JPEG 2000 compression is not supported", id="JPEG 2000"),
        pytest.param(tiff((8,), bytes(8), t259=50001), "TIFF: WebP compression is not supported", id="WebP"),
        pytest.param(tiff((8,), bytes(8), t339=2), "TIFF: signed samples have no defined black and white", id="int8"),
        pytest.param(tiff((16,), bytes(8), t339=2), "TIFF: signed samples have no defined black and white", id="int16"),
        pytest.param(
            tiff((8,) * 3, bytes(9), photometric=2, t339=(1, 1, 2)),
            "TIFF: signed samples have no defined black and white",
            id="one signed band",
        ),
    ],
)
def test_a_tiff_whose_first_image_is_not_the_image_is_refused_by_name(
    data: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refusal_of(data) == f"unsupported_format: {message}"
    # libtiff writes directly to the process's stderr.
    assert capfd.readouterr().err == ""


def test_bigtiff_and_the_other_byte_order_are_looked_into_too() -> None:
    for big in (True, False):
        data = encode(Image.new("RGB", (8, 8)), "TIFF", tiffinfo={254: 1}, big_tiff=big)
        assert refusal_of(data).startswith("unsupported_format: TIFF that starts with a reduced image")
    entry = struct.pack(">HHIHH", 254, 3, 1, 1, 0)
    assert refusal_of(b"MM\0*\0\0\0\x08\0\1" + entry).startswith(
        "unsupported_format: TIFF that starts with a reduced image"
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_second_directory(t254=1, t256=4), id="smaller image below"),
        pytest.param(with_second_directory(t256=4000), id="directory of something else"),
        pytest.param(tiff((8,), bytes(8), t330=60_000), id="directory outside the file"),
        pytest.param(tiff((8,), bytes(8), t254=2), id="a page"),
        pytest.param(
            encode(Image.new("L", (9, 9)), "TIFF", save_all=True, append_images=[Image.new("L", (99, 99))]), id="pages"
        ),
    ],
)
def test_a_plain_tiff_stays_one(data: bytes) -> None:
    assert colour_of(data) == (0, 0, 0)


def test_12_bits_in_16_are_scaled_where_a_tiff_says_so() -> None:
    pixels = np.full(4, 2048, "<u2").tobytes()
    assert colour_of(tiff((16,), pixels)) == (8, 8, 8)
    assert colour_of(tiff((16,), pixels, t281=4095)) == (128, 128, 128)
    # The largest value found in an image is not its white.
    assert colour_of(tiff((16,), pixels, t281=2050)) == (128, 128, 128)
    assert colour_of(tiff((16,), pixels, t281=65535)) == (8, 8, 8)
    assert colour_of(tiff((16,), np.full(4, 100, "<u2").tobytes(), t281=100)) == (100, 100, 100)
    assert colour_of(tiff((16,), np.full(4, 60_000, "<u2").tobytes(), t281=4095)) == WHITE


def bitmap(alphas: list[int]) -> bytes:
    """A row of red pixels under a header that announces transparency."""
    header = struct.pack("<IiiHHIIiiII", 124, len(alphas), 1, 1, 32, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
    pixels = b"".join(bytes((0, 0, 255, alpha)) for alpha in alphas)
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels


def test_a_bmp_whose_alpha_is_0_throughout_is_opaque() -> None:
    assert colour_of(bitmap([0, 0, 0, 0])) == RED
    pixels = decode_image(bitmap([0, 0, 0, 255]), WARP)
    assert pixels[0, 0].tolist() == list(WHITE)
    assert pixels[0, 255].tolist() == list(RED)
    # In other formats alpha 0 means transparent.
    for name in ("PNG", "TIFF"):
        assert colour_of(encode(Image.new("RGBA", (8, 8), (*RED, 0)), name)) == WHITE


# AVIF, HEIF, JPEG 2000


UNCHANGED: dict[str, dict[str, object]] = {"AVIF": {"quality": 100}, "HEIF": {"quality": -1, "chroma": 444}}
UNCHANGED["JPEG2000"] = {}


def apart(data: bytes, expected: np.ndarray) -> float:
    """Mean absolute difference of a value."""
    return float(np.abs(decode_image(data, WARP).astype(int) - expected).mean())


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_phones_and_archives_write_is_read(name: str) -> None:
    assert apart(encode(Image.fromarray(QUADRANTS), name, **UNCHANGED[name]), QUADRANTS) < 1.5
    grey = Image.fromarray(QUADRANTS).convert("L")
    assert apart(encode(grey, name, **UNCHANGED[name]), np.asarray(grey.convert("RGB"))) < 1.5


@pytest.mark.parametrize("name", UNCHANGED)
def test_their_transparency_is_laid_over_white(name: str) -> None:
    image = Image.fromarray(QUADRANTS).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 128, 256))
    pixels = decode_image(encode(image, name, **UNCHANGED[name]), WARP)
    assert pixels[:, :120].min() >= 250
    assert np.abs(pixels[64, 192].astype(int) - QUADRANTS[64, 192]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_they_are_turned_once(name: str, orientation: int) -> None:
    notes = Image.Exif()
    notes[0x0112] = orientation
    image = Image.fromarray(QUADRANTS)
    # The rotation of a PNG is tested by test_colour.py.
    upright = decode_image(encode(image, "PNG", exif=notes), WARP)
    assert apart(encode(image, name, exif=notes.tobytes(), **UNCHANGED[name]), upright) < 1.5


@pytest.mark.parametrize("bits", [10, 12])
def test_deeper_heif_is_scaled(bits: int) -> None:
    file = pillow_heif.from_bytes("RGB;16", (64, 64), np.full((64, 64, 3), 0x8000, "<u2").tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
        data = heif_bytes(file, quality=-1, chroma=444)
    assert pillow_heif.open_heif(data, convert_hdr_to_8bit=False).info["bit_depth"] == bits
    assert np.abs(decode_image(data, WARP).astype(int) - 128).max() <= 1


def heif_bytes(file: pillow_heif.HeifFile, **options: object) -> bytes:
    target = io.BytesIO()
    file.save(target, **options)
    return target.getvalue()


def test_16_bit_grey_jpeg_2000_is_scaled() -> None:
    grey = Image.fromarray(np.full((64, 64), 0x8000, np.uint16))
    assert colour_of(encode(grey, "JPEG2000")) == (128, 128, 128)


def test_the_primary_image_of_a_collection_is_taken_and_no_thumbnail() -> None:
    file = pillow_heif.from_pillow(Image.new("RGB", (64, 64), RED))
    file.add_from_pillow(Image.fromarray(QUADRANTS))
    data = heif_bytes(file, primary_index=1, quality=-1, chroma=444, thumbnails=[64])
    assert apart(data, QUADRANTS) < 1.5


@pytest.mark.parametrize("name", UNCHANGED)
def test_a_size_over_the_limit_is_refused_from_the_header(name: str) -> None:
    # The end of the pixels is missing, so decoding would report truncated.
    data = encode(Image.fromarray(noise(300, 200)), name)
    cut = data if name != "JPEG2000" else data[: len(data) // 2]
    assert code_of(cut, DecodeLimits(max_pixels=59_999)) == "too_large"
    assert code_of(data[: len(data) // 2], DecodeLimits(max_pixels=240_000)) == "truncated"


def test_without_pillow_heif_the_row_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    words = "HEIC is not supported: install pillow-heif (extra `heif`)"
    assert refusal_of(IMAGES["HEIF"]) == f"unsupported_format: {words}"


def test_without_its_library_in_pillow_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert "this Pillow was built without libavif" in refusal_of(IMAGES["AVIF"])
    assert "this Pillow was built without OpenJPEG" in refusal_of(IMAGES["JPEG2000"])


def test_reading_a_heif_registers_nothing_with_pillow() -> None:
    decode_image(IMAGES["HEIF"], WARP)
    Image.init()
    assert "HEIF" not in Image.OPEN


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 1_000])
def test_a_big_tiff_whose_directory_lies_outside_the_file_is_truncated(offset: int) -> None:
    data = struct.pack("<2sHHHQ", b"II", 43, 8, 0, offset) + bytes(100)
    assert refusal_of(data).startswith("truncated: ")
