"""Resizing is bit-identical with Pillow 12, which resizes horizontally first, and 13, which may start vertically."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resize_digests import POLICIES, SIZES, digests, drawn

from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.model.preprocessing import ResizePolicy

SUPPORT = Path(__file__).parents[2] / "support"

# The result of one call of `resize` in Pillow 12.3.0.
DIGESTS = {
    "256x256 shorter-side": "20d20b589ddc1faf",
    "256x256 warp": "20d20b589ddc1faf",
    "341x256 shorter-side": "18b69e2a4e3ea672",
    "341x256 warp": "e4627fe9c23eda88",
    "256x341 shorter-side": "ddf4bfb7f732a524",
    "256x341 warp": "fd79e76b19e6a802",
    "257x256 shorter-side": "20d20b589ddc1faf",
    "257x256 warp": "3d8fe1ac834d2c33",
    "500x375 shorter-side": "715f0e578388dbc0",
    "500x375 warp": "0bd345e76dbd32e1",
    "375x500 shorter-side": "f06b914e6a26611c",
    "375x500 warp": "55db56ba017b9919",
    "300x801 shorter-side": "8356a0b9fa095d87",
    "300x801 warp": "37372ad422dd539e",
    "1023x97 shorter-side": "d63a48bc407e5819",
    "1023x97 warp": "ec5cf9fc7717bc89",
    "97x1023 shorter-side": "7899468f10c9b802",
    "97x1023 warp": "bbe575daeefd4321",
    "1x1 shorter-side": "b35101db30526ac6",
    "1x1 warp": "b35101db30526ac6",
    "2x1 shorter-side": "6bafa7e08e62bc7a",
    "2x1 warp": "967cf865de3c8dc3",
    "255x257 shorter-side": "a7221155cde6cb96",
    "255x257 warp": "0bb85d9cae30a553",
    "640x3 shorter-side": "9023d55b451bcd3b",
    "640x3 warp": "35ea68ad2d20733f",
    "3x300 shorter-side": "a97d4628563547a5",
    "3x300 warp": "daef5465385db1b8",
    "3x301 shorter-side": "2f1cb1906faa9700",
    "3x301 warp": "aaa048d516d69167",
    "1x20000 shorter-side": "bd701f208165927d",
    "1x20000 warp": "515b0529cbf3015d",
    "20000x1 shorter-side": "18b1e399d6b4fce0",
    "20000x1 warp": "f1edf3ff69ff7502",
    "1100x1467 shorter-side": "586d9332cc72f7ba",
    "1100x1467 warp": "208eb4a2c2a04083",
}

OTHER_PILLOW = "12.3.0"
OTHER_PLACE = Path(sys.prefix) / f"pillow-{OTHER_PILLOW}"
SET_UP = Path(sys.prefix) / ".made-from"


def test_the_resized_pixels_are_those_of_pillow_before_13() -> None:
    assert dict(digests()) == DIGESTS


@pytest.mark.skipif(not SET_UP.exists(), reason="Pillow's other major is installed by scripts/setup, which was not run")
def test_the_resized_pixels_are_the_same_in_pillows_other_major() -> None:
    path = os.pathsep.join(map(str, (OTHER_PLACE, SUPPORT)))
    command = [sys.executable, SUPPORT / "resize_digests.py"]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    version, *lines = ended.stdout.splitlines()
    assert version == OTHER_PILLOW
    assert dict(line.rsplit(" ", 1) for line in lines) == DIGESTS


@pytest.mark.parametrize("resize", POLICIES)
@pytest.mark.parametrize("size", [size for size in SIZES if size[1] <= 100 * size[0]], ids=str)
def test_the_image_goes_across_before_it_goes_down(size: tuple[int, int], resize: ResizePolicy) -> None:
    image, (width, height) = drawn(*size), size
    left, top, side_across, side_down = 0, 0, width, height
    if resize == "shorter-side":
        side_across = side_down = min(size)
        left, top = (width - side_across) // 2, (height - side_down) // 2
    across = image.resize((256, height), Image.Resampling.BILINEAR, box=(left, 0, left + side_across, height))
    down = across.resize((256, 256), Image.Resampling.BILINEAR, box=(0, top, 256, top + side_down))
    assert np.array_equal(to_square(image, resize), np.asarray(down))
