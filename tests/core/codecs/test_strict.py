"""If another library sets LOAD_TRUNCATED_IMAGES, the same files still give the same pixels and error codes."""

import io

import pytest
from images import IMAGES, WHITE, chunk, code_of, colour_of, outcome, png
from mutations import first_mutants
from PIL import Image, ImageFile

from alexnet_deploy.core.images.decode import DecodeLimits


@pytest.fixture
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.usefixtures("switched_on")
def test_a_truncated_file_is_refused_all_the_same(name: str, share: float) -> None:
    assert code_of(IMAGES[name][: int(len(IMAGES[name]) * share)]) == "truncated"


@pytest.mark.usefixtures("switched_on")
def test_a_chunk_with_a_wrong_checksum_is_refused_all_the_same() -> None:
    key = chunk(b"tRNS", b"\0\xff")
    assert colour_of(png(1, 1, 8, 0, b"\0\xff", before=key)) == WHITE
    assert code_of(png(1, 1, 8, 0, b"\0\xff", before=key[:-1] + b"\0")) == "truncated"


def test_damaged_files_have_the_same_outcome_whatever_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = DecodeLimits(max_pixels=100_000)
    for name, data in first_mutants(3, 150):
        off = outcome(data, limits)
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
            on = outcome(data, limits)
        assert (off == on) is True if isinstance(off, str) else (off == on).all(), name


def test_what_others_decode_through_pillow_is_left_to_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    half = IMAGES["PNG"][: len(IMAGES["PNG"]) // 2]
    assert code_of(half) == "truncated"
    with Image.open(io.BytesIO(half)) as image:
        image.load()
    assert ImageFile.LOAD_TRUNCATED_IMAGES
