"""A seed draws the same image in every version: drawn sets and golden images can be compared with older ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_folder, draw_image, golden_images

# Of the pixels, seeds 0 to 5.
DRAWN = {
    "container ship": "95e912b5b33011e1 7f09d94ce78317ae 8293767dad461a6a 5ec92d745fd0e794 d58c53dffd56c29b "
    "42d7cc9d625d6a69",
    "hot-air balloon": "be679c8c82078fb5 25ded333f8ae7136 2d7d2767b271b1f7 453d07a71f1c659f 9c0ced768f9feebe "
    "efc50152506d812a",
    "mountain bike": "eeee7b330f789e85 06620d2c7d872e1d fc1624947db393a3 0c8a7b9d89bf14c2 86a67afa92c7f7f4 "
    "6223f080dc1d5384",
    "umbrella": "d9f4ddd1d12b294a d2b81c56299c04e9 83ee010af1f6d5b6 a2b5a6f30cca26ce 6dc9d7a79de721b8 e3a24b551606fbab",
}
GOLDEN = (
    "7b097c7be6d9e45f 79804c402da6c6e8 62e89a783c5480a0 5546fbda04a1f20c 32eb218b3c60e67b e0be170f4782f69c "
    "9066188767cacf60 f8cdc33455bda0b7"
)


def digest(pixels: np.ndarray) -> str:
    assert pixels.shape == (256, 256, 3)
    assert pixels.dtype == np.uint8
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("thing", DRAWN_CLASSES)
def test_a_seed_draws_the_same_pixels(thing: str) -> None:
    assert [digest(np.asarray(draw_image(thing, seed))) for seed in range(6)] == DRAWN[thing].split()


def test_golden_images_are_the_same() -> None:
    assert [digest(image) for image in golden_images()] == GOLDEN.split()


def test_a_folder_is_150_and_25_images_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = {}

    def remember(thing: str, seed: int) -> Image.Image:
        seeds.setdefault(thing, []).append(seed)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("alexnet_deploy.core.images.drawing.draw_image", remember)
    draw_folder(tmp_path / "drawn")
    # No seed is drawn on both sides.
    assert seeds == {thing: list(range(175)) for thing in DRAWN_CLASSES}
    for side, number in (("train", 150), ("val", 25)):
        for thing in DRAWN_CLASSES:
            names = [path.name for path in sorted((tmp_path / "drawn" / side / thing).iterdir())]
            assert names == [f"{place:04}.jpg" for place in range(number)]
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]
