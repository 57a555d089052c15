"""What is known of a picture, and which two are the same."""

import io

import pytest
from PIL import Image

from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_image
from alexnet_deploy.train.gather.pictures import FINGERPRINT_BYTES, MOST_BITS, Fingerprints, fingerprint_of, look_at

PICTURE = draw_image(DRAWN_CLASSES[0], 1)


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif"), ("BMP", ".bmp"), ("TIFF", ".tif")],
)
def test_the_ending_is_that_of_the_true_format(kind: str, ending: str) -> None:
    assert look_at(saved(PICTURE, kind)).ending == ending


def test_a_picture_is_described_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(PICTURE.resize((80, 50)), exif=exif)
    picture = look_at(data)
    assert (picture.width, picture.height, picture.num_bytes) == (50, 80, len(data))
    assert len(picture.fingerprint) == FINGERPRINT_BYTES


def test_what_our_decoder_refuses_has_its_code() -> None:
    for data, code in ((b"", "empty"), (b"<html>", "not_an_image"), (saved(PICTURE)[:-2000], "truncated")):
        with pytest.raises(ImageError) as caught:
            look_at(data)
        assert caught.value.code == code


def nearest(kept: list[Image.Image], image: Image.Image) -> int | None:
    fingerprints = Fingerprints()
    for one in kept:
        fingerprints.keep(fingerprint_of(one))
    found = fingerprints.nearest(fingerprint_of(image))
    return None if found is None else found[0]


@pytest.mark.parametrize("seed", range(2))
def test_a_picture_that_was_saved_again_or_resized_is_the_same(seed: int) -> None:
    kept = [draw_image(name, seed) for name in DRAWN_CLASSES]
    for number, image in enumerate(kept):
        for copy in (
            Image.open(io.BytesIO(saved(image, quality=30))),
            Image.open(io.BytesIO(saved(image, "WEBP", quality=40))),
            image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
            image.resize((400, 400), Image.Resampling.BICUBIC),
        ):
            assert nearest(kept, copy.convert("RGB")) == number


def test_other_pictures_are_not_the_same() -> None:
    kept = [draw_image(name, seed) for name in DRAWN_CLASSES for seed in range(3)]
    for number, image in enumerate(kept):
        assert nearest(kept[:number], image) is None
    mirrored = kept[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert nearest(kept, mirrored) is None


def test_one_shape_in_another_colour_is_another_picture() -> None:
    flat = [Image.new("RGB", (100, 100), colour) for colour in ("white", "red", "navy")]
    assert [nearest(flat[:number], image) for number, image in enumerate(flat)] == [None] * 3
    assert nearest(flat, Image.new("RGB", (70, 90), (250, 10, 5))) == 1


def test_the_first_of_several_near_ones_is_found_among_thousands() -> None:
    fingerprints = Fingerprints()
    assert fingerprints.nearest(bytes(FINGERPRINT_BYTES)) is None
    for number in range(3000):
        fingerprints.keep(bytes([255]) * 8 + number.to_bytes(24, "big") + bytes(48))
    wanted = bytes([255]) * 8 + (2**24 - 1).to_bytes(24, "big") + bytes(48)
    first = min(number for number in range(3000) if (number ^ (2**24 - 1)).bit_count() <= MOST_BITS)
    assert fingerprints.nearest(wanted) == (first, MOST_BITS)
