"""The golden files are the same everywhere, and so are their pixels."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.golden import files as golden
from alexnet_deploy.core.golden.files import golden_files
from alexnet_deploy.core.model.preprocessing import IMAGE_POLICIES, SHORTER_SIDE, WARP, ImagePolicy

OTHER_PILLOW = Path(sys.prefix) / "pillow-12.3.0"
PRINT_VERSION = """
from alexnet_deploy.core.golden.files import decoder_version, golden_files
from alexnet_deploy.core.model.preprocessing import IMAGE_POLICIES
print(decoder_version(), len([golden_files(policy) for policy in IMAGE_POLICIES]))
"""


def opened(name: str) -> Image.Image:
    return Image.open(io.BytesIO(next(file.data for file in golden_files(WARP) if file.name == name)))


@pytest.mark.parametrize("policy", IMAGE_POLICIES)
def test_pixels_are_the_pinned_ones(policy: ImagePolicy) -> None:
    found = golden_files(policy)
    assert len(found) == (19 if policy.decode == "exact" else 21)
    assert {file.pixels.shape for file in found} == {(256, 256, 3)}
    assert sum(len(file.data) for file in found) < 200_000


@pytest.mark.skipif(not OTHER_PILLOW.is_dir(), reason="scripts/setup has not installed the other Pillow")
def test_another_version_of_pillow_makes_the_same_pixels() -> None:
    environment = os.environ | {"PYTHONPATH": str(OTHER_PILLOW)}
    done = subprocess.run([sys.executable, "-c", PRINT_VERSION], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("Pillow 12.3.0, ")
    assert done.stdout.endswith(" 4\n")


def test_a_decoder_of_other_pixels_is_refused_by_the_name_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = golden.decode_image

    def other(data: bytes, policy: ImagePolicy) -> np.ndarray:
        pixels = decode(data, policy)
        if Image.open(io.BytesIO(data)).mode == "CMYK":
            pixels[17, 40, 1] ^= 1
        return pixels

    monkeypatch.setattr(golden, "decode_image", other)
    with pytest.raises(BundleError, match=r"^cmyk.jpg: Pillow .* decodes this golden file to other pixels"):
        golden_files(SHORTER_SIDE)


def test_every_orientation_is_there_and_all_are_nearly_the_same_upright() -> None:
    found = {file.name: file.pixels for file in golden_files(SHORTER_SIDE)}
    upright = [f"exif{number}.jpg" for number in range(1, 9)]
    assert [opened(name).getexif().get(0x0112) for name in upright] == list(range(1, 9))
    for name in upright:
        assert np.abs(found[name].astype(int) - found["exif1.jpg"]).mean() < 2, "a wrong one is off by 46"


def test_each_file_is_what_its_name_says() -> None:
    modes = {"grey.jpg": "L", "cmyk.jpg": "CMYK", "palette.png": "P", "alpha.png": "RGBA", "grey16.png": "I;16"}
    assert {name: opened(name).mode for name in modes} == modes
    assert opened("progressive.jpg").info["progressive"] == 1
    assert "progressive" not in opened("baseline.jpg").info
    assert opened("cmyk.jpg").info["adobe_transform"] is not None
    sizes = {"line.png": (300, 1), "over.jpg": (257, 256), "odd.jpg": (403, 301)}
    assert {name: opened(name).size for name in sizes} == sizes
    # Of each 2 x 2 pixels, the colour is stored once.
    assert [layer[1:3] for layer in opened("odd.jpg").layer] == [(2, 2), (1, 1), (1, 1)]
    assert "transparency" in opened("palette.png").info
    assert [file.data[24] for file in golden_files(WARP) if "16" in file.name] == [16, 16], "bits of a sample"
