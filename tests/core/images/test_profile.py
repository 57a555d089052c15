"""Wide-gamut colours: compared with LittleCMS on the same profile, within one or two rounding steps."""

import io
import struct

import numpy as np
import pytest
from images import QUADRANTS, chunk, code_of, encode, png
from PIL import Image, ImageCms

from alexnet_deploy.core.codecs.containers import primary_nclx
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images import profile as profiles
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import WARP

P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
SRGB_CURVE = struct.pack(
    ">4sIHH5i", b"para", 0, 3, 0, *(round(v * 65536) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


def gamma(value: float) -> bytes:
    return struct.pack(">4sIIH2x", b"curv", 0, 1, round(value * 256))


def table(value: float) -> bytes:
    return struct.pack(">4sII257H2x", b"curv", 0, 257, *(round(65535 * (n / 256) ** value) for n in range(257)))


def icc(colorants: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    """An ICC profile with a matrix and one curve for all channels."""
    white = (0.9642, 1.0, 0.8249)
    xyz = [struct.pack(">4sI3i", b"XYZ ", 0, *(round(v * 65536) for v in values)) for values in (*colorants, white)]
    bodies = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), xyz, strict=True))
    bodies |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    bodies |= {b"desc": struct.pack(">4sII2s90x", b"desc", 0, 2, b"x\0"), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    entries, rest, start = b"", b"", 132 + 12 * len(bodies)
    for name, body in bodies.items():
        entries += name + struct.pack(">II", start + len(rest), len(body))
        rest += body + bytes(-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s", start + len(rest), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", *(round(v * 65536) for v in white))
    return header.ljust(128, b"\0") + struct.pack(">I", len(bodies)) + entries + rest


PROFILES = {
    "Display P3": icc(P3, SRGB_CURVE),
    "Adobe RGB": icc(ADOBE, gamma(2.19921875)),
    "ProPhoto": icc(PROPHOTO, gamma(1.8)),
    "table": icc(ADOBE, table(2.0)),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def colours() -> Image.Image:
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    return Image.fromarray(np.kron(grid, np.ones((4, 4, 1), np.uint8)).astype(np.uint8))


def by_littlecms(image: Image.Image, profile: bytes) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), renderingIntent=intent)
    assert converted is not None
    return np.asarray(converted).astype(int)


@pytest.mark.parametrize("name", PROFILES)
def test_a_wider_gamut_becomes_srgb_as_littlecms_converts_it(name: str) -> None:
    image, profile = colours(), PROFILES[name]
    found = decode_image(encode(image, "PNG", icc_profile=profile), WARP).astype(int)
    apart = np.abs(found - by_littlecms(image, profile))
    assert np.abs(found - np.asarray(image)).mean() > 2
    # Near black LittleCMS's curves are coarser.
    assert apart.mean() < 0.3
    assert apart.max() <= 4


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_each_format_gives_its_profile(name: str) -> None:
    plain = decode_image(encode(Image.fromarray(QUADRANTS), name), WARP)
    tagged = decode_image(encode(Image.fromarray(QUADRANTS), name, icc_profile=PROFILES["ProPhoto"]), WARP)
    expected = profiles._of_profile(PROFILES["ProPhoto"])
    assert expected is not None
    assert np.array_equal(tagged, expected.apply(plain))


def test_what_is_near_srgb_is_not_touched() -> None:
    image = colours()
    for near in (SRGB, icc(((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)), SRGB_CURVE)):
        assert np.array_equal(decode_image(encode(image, "PNG", icc_profile=near), WARP), np.asarray(image))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"profile" * 20,
        PROFILES["ProPhoto"][:200],
        PROFILES["ProPhoto"].replace(b"rTRC", b"xTRC"),
        PROFILES["ProPhoto"].replace(b"RGB XYZ ", b"CMYKLab "),
        PROFILES["ProPhoto"].replace(b"curv", b"????"),
        PROFILES["ProPhoto"][:128] + b"\xff" * 400,
        PROFILES["ProPhoto"].ljust(2**16 + 1, b"\0"),
    ],
    ids=range(8),
)
def test_a_profile_that_is_broken_or_of_another_kind_is_ignored(broken: bytes) -> None:
    image = colours()
    assert np.array_equal(decode_image(encode(image, "PNG", icc_profile=broken), WARP), np.asarray(image))


def test_grey_and_cmyk_keep_their_values() -> None:
    grey = Image.fromarray(np.arange(65536, dtype=np.uint32).reshape(256, 256).astype(np.uint8))
    found = decode_image(encode(grey, "PNG", icc_profile=PROFILES["ProPhoto"]), WARP)
    assert np.array_equal(found[:, :, 0], np.asarray(grey))
    inks = Image.new("CMYK", (256, 256), (10, 200, 30, 40))
    plain, tagged = (decode_image(encode(inks, "JPEG", **options), WARP) for options in ({}, {"icc_profile": SRGB}))
    assert np.array_equal(plain, tagged)


def stated(primaries: int, transfer: int) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in QUADRANTS)
    return png(256, 256, 8, 2, rows, before=chunk(b"cICP", bytes((primaries, transfer, 0, 1))))


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_by_name(transfer: int, name: str) -> None:
    with pytest.raises(ImageError, match=rf"^HDR \({name}\) is not supported") as caught:
        decode_image(stated(9, transfer), WARP)
    assert caught.value.code == "unsupported_format"
    # Both formats use colr boxes of kind nclx.
    for kind in ("AVIF", "HEIF"):
        data = encode(Image.fromarray(QUADRANTS), kind)
        place = data.index(b"colrnclx") + 8
        assert code_of(data[:place] + struct.pack(">HH", 9, transfer) + data[place + 4 :]) == "unsupported_format"


def test_a_note_that_holds_the_name_of_a_chunk_states_nothing() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in QUADRANTS)
    data = png(256, 256, 8, 2, rows, before=chunk(b"tEXt", b"Comment\0cICP\x09\x10\0\1"))
    assert np.array_equal(decode_image(data, WARP), QUADRANTS)


def boxed(kind: bytes, *contents: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, contents)), kind) + b"".join(contents)


@pytest.mark.parametrize("wide", [False, True])
def test_only_the_colours_of_the_primary_image_count(wide: bool) -> None:
    """Item 1 is PQ, item 2 is P3; the same box outside `meta`, in the pixels or other data, is ignored."""
    pq, p3 = (boxed(b"colr", b"nclx", struct.pack(">HHHB", *codes, 0, 0)) for codes in ((9, 16), (12, 13)))
    names, index = (">IB", ">H") if wide else (">HB", ">B")

    def file(primary: int, *, free: bytes = b"") -> bytes:
        links = b"".join(
            struct.pack(names, item, 2) + struct.pack(index, 0) + struct.pack(index, item) for item in (1, 2)
        )
        ipma = boxed(b"ipma", bytes((wide, 0, 0, wide)), struct.pack(">I", 2), links)
        pitm = boxed(b"pitm", bytes((wide, 0, 0, 0)), struct.pack(">I" if wide else ">H", primary))
        meta = boxed(b"meta", bytes(4), pitm, boxed(b"iprp", boxed(b"ipco", pq, p3), ipma))
        return boxed(b"ftyp", b"avif", bytes(4)) + free + meta

    assert primary_nclx(file(1)) == (9, 16)
    assert primary_nclx(file(2, free=boxed(b"free", pq))) == (12, 13)
    assert primary_nclx(file(3)) is None
    for end in range(len(file(2))):
        assert primary_nclx(file(2)[:end]) in (None, (12, 13))


def test_stated_primaries_are_converted_and_srgb_ones_are_not() -> None:
    assert np.array_equal(decode_image(stated(1, 13), WARP), QUADRANTS)
    by_profile = decode_image(encode(Image.fromarray(QUADRANTS), "PNG", icc_profile=PROFILES["Display P3"]), WARP)
    assert np.abs(decode_image(stated(12, 13), WARP).astype(int) - by_profile).max() <= 1
    assert np.abs(decode_image(stated(9, 13), WARP).astype(int) - QUADRANTS).max() > 20


def para(kind: int, *values: float) -> bytes:
    return struct.pack(f">4sIHH{len(values)}i", b"para", 0, kind, 0, *(round(v * 65536) for v in values))


CURVES = {
    "identity": (struct.pack(">4sII", b"curv", 0, 0), lambda x: x),
    "gamma": (gamma(1.5), lambda x: x**1.5),
    "points": (
        struct.pack(">4sII3H", b"curv", 0, 3, 0, 13107, 65535),
        lambda x: np.interp(x, (0, 0.5, 1), (0, 0.2, 1)),
    ),
    "0": (para(0, 1.75), lambda x: x**1.75),
    "1": (para(1, 1.5, 1.25, -0.25), lambda x: np.maximum(1.25 * x - 0.25, 0) ** 1.5),
    "2": (para(2, 1.5, 1.0, -0.25, 0.25), lambda x: np.where(x >= 0.25, np.maximum(x - 0.25, 0) ** 1.5, 0) + 0.25),
    "3": (para(3, 2.0, 0.75, 0.25, 0.5, 0.25), lambda x: np.where(x >= 0.25, (0.75 * x + 0.25) ** 2, 0.5 * x)),
    "4": (
        para(4, 2.0, 0.5, 0.25, 0.5, 0.25, 0.125, 0.0625),
        lambda x: np.where(x >= 0.25, (0.5 * x + 0.25) ** 2 + 0.125, 0.5 * x + 0.0625),
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_of_every_type_are_those_of_the_standard(name: str) -> None:
    curve, formula = CURVES[name]
    conversion = profiles._of_profile(icc(PROPHOTO, curve))
    assert conversion is not None
    expected = np.clip(formula(np.arange(256) / 255), 0, 1) * 65535
    assert conversion.curves.shape == (3, 256)
    assert np.abs(conversion.curves - expected).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "CMYK", "LAB", "I", "F", "I;16", "I;16B"])
def test_modes_that_are_not_rgb_have_no_conversion(mode: str) -> None:
    image = Image.new(mode, (1, 1))
    image.info["icc_profile"] = PROFILES["ProPhoto"]
    assert profiles.conversion_of(image, b"") is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "YCbCr"])
def test_modes_of_three_colours_have_one(mode: str) -> None:
    image = Image.new(mode, (1, 1))
    image.info["icc_profile"] = PROFILES["ProPhoto"]
    assert profiles.conversion_of(image, b"") is not None
