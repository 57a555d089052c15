import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import cifar_batches, write_batches, write_cifar
from PIL import Image

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP
from alexnet_deploy.train.data.cifar10 import ARCHIVE, LABELS, TRAIN, VALIDATION
from alexnet_deploy.train.data.scan import find_images, survey

BATCHES = cifar_batches()


def test_the_archive_its_folder_and_the_batches_are_one_data_set(tmp_path: Path) -> None:
    archive = write_cifar(tmp_path / "archive", BATCHES)
    batches = write_batches(tmp_path / "unpacked/cifar-10-batches-bin", BATCHES)
    sources = [find_images(root) for root in (archive, archive / ARCHIVE, batches, batches.parent)]
    surveys = [survey(source, SHORTER_SIDE) for source in (sources[0], sources[2])]
    assert surveys[0].sha256 == surveys[1].sha256
    for source in sources:
        assert source.class_names == LABELS
        assert len(source.train) == 50
        assert len(source.validation) == 10
        assert [example.label for example in source.train] == 5 * list(range(10))
        assert [(one.name, one.label) for one in source.train] == [(one.name, one.label) for one in sources[0].train]
    assert sources[0].train[13].name == "train/cat/data_batch_2.bin:00003"
    assert sources[0].validation[9].name == "val/truck/test_batch.bin:00009"


def test_planes_become_pixels_and_are_resized_like_any_other_image(tmp_path: Path) -> None:
    example = find_images(write_cifar(tmp_path, BATCHES)).train[21]
    record = np.frombuffer(BATCHES[TRAIN[2]], np.uint8).reshape(10, 3073)[1]
    assert example.label == record[0] == 1
    pixels = np.stack([record[1 + 1024 * channel : 1025 + 1024 * channel].reshape(32, 32) for channel in range(3)], 2)
    wanted = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR)
    for policy in (SHORTER_SIDE, WARP):
        np.testing.assert_array_equal(example.decode(example.read(), policy), wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_batch_4": None}, r"has no data_batch_4\.bin; the five training batches"),
        ({"test_batch": None}, r"has no test_batch\.bin; the five training batches"),
        ({"data_batch_1": None}, r"has no data_batch_1\.bin; the five training batches"),
        ({"data_batch_2": BATCHES[TRAIN[1]][:-1]}, r"data_batch_2\.bin has 30,729 bytes, not a multiple of 3,073"),
        ({"data_batch_3": b""}, r"data_batch_3\.bin has 0 bytes, not a multiple of 3,073"),
        ({"test_batch": BATCHES[VALIDATION][:3073] + bytes([10]) * 3073}, "record 1 of test_batch.bin has class 10"),
    ],
)
def test_batches_that_are_missing_or_damaged_are_refused(
    tmp_path: Path, changes: dict[str, bytes | None], message: str
) -> None:
    batches = {name: changes.get(name.removesuffix(".bin"), data) for name, data in BATCHES.items()}
    root = write_batches(tmp_path, {name: data for name, data in batches.items() if data is not None})
    with pytest.raises(DataError, match=message):
        find_images(root)


def cut(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


def empty(archive: Path) -> None:
    with tarfile.open(archive, "w:gz"):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, f"{ARCHIVE}: cannot be read: "),
        (empty, r"has no data_batch_1\.bin"),
        (lambda archive: archive.write_bytes(b"no archive"), f"{ARCHIVE}: cannot be read: "),
    ],
)
def test_an_archive_that_is_damaged_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    change(write_cifar(tmp_path, BATCHES) / ARCHIVE)
    with pytest.raises(DataError, match=message):
        find_images(tmp_path)
