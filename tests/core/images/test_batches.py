import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.core.errors import DataError, ImageErrorCode
from alexnet_deploy.core.images import batches as batches_module
from alexnet_deploy.core.images.batches import BATCH_SIZE, decode_batches, look_through
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP


@pytest.fixture
def files(images: Path) -> list[Path]:
    return sorted(images.iterdir())


def test_images_come_in_order_and_none_is_lost_at_a_batch_s_edge(files: list[Path]) -> None:
    many = files * 3
    found = list(decode_batches(many, SHORTER_SIDE))
    assert [len(batch) for batch in found] == [BATCH_SIZE, BATCH_SIZE, 36 - 2 * BATCH_SIZE]
    assert {(batch.dtype.name, batch.shape[1:]) for batch in found} == {("uint8", (256, 256, 3))}
    expected = [read_image(path, SHORTER_SIDE) for path in files]
    for place, image in enumerate(np.concatenate(found)):
        np.testing.assert_array_equal(image, expected[place % len(files)])


def test_no_file_is_no_batch() -> None:
    assert list(decode_batches([], WARP)) == []


def test_the_policy_is_the_one_asked_for(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    for policy in (SHORTER_SIDE, WARP):
        (batch,) = decode_batches([tmp_path / "a.png"], policy)
        np.testing.assert_array_equal(batch[0], read_image(tmp_path / "a.png", policy))


def test_bad_image_is_named_where_it_stands(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"bad\.jpg: cannot be decoded: the file has no bytes"):
        list(decode_batches([files[0], tmp_path / "bad.jpg"], WARP))


def test_a_few_batches_are_in_memory_and_no_more(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def note(path: Path, resize: str) -> np.ndarray:
        read.append(path)
        return np.zeros((256, 256, 3), np.uint8)

    monkeypatch.setattr(batches_module, "read_image", note)
    stream = decode_batches(files * 50, WARP)
    for number in range(1, 6):
        next(stream)
        assert len(read) <= (number + 3) * BATCH_SIZE


def test_every_file_is_looked_at_and_the_bad_ones_are_set_apart(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    mixed = [files[0], tmp_path / "empty.jpg", files[1], tmp_path / "text.jpg", files[2], tmp_path / "gone.jpg"]
    found = look_through(mixed, WARP)
    assert found.sources == tuple(files[:3])
    assert [(path.name, error.code) for path, error in found.excluded] == [
        ("empty.jpg", ImageErrorCode.EMPTY),
        ("text.jpg", ImageErrorCode.NOT_AN_IMAGE),
        ("gone.jpg", ImageErrorCode.MISSING),
    ]
    # Images that cannot be decoded are not part of the digest.
    assert found.sha256 == look_through(files[:3], WARP).sha256


def test_digest_is_of_what_is_seen_in_order(files: list[Path], tmp_path: Path) -> None:
    digest = look_through(files[:3], SHORTER_SIDE).sha256
    shutil.copy(files[0], tmp_path / "renamed.jpg")
    assert look_through([tmp_path / "renamed.jpg", *files[1:3]], SHORTER_SIDE).sha256 == digest
    others = {
        "order": look_through([files[1], files[0], files[2]], SHORTER_SIDE).sha256,
        "fewer": look_through(files[:2], SHORTER_SIDE).sha256,
        "other": look_through([files[3], *files[1:3]], SHORTER_SIDE).sha256,
    }
    assert len({digest, *others.values()}) == 4
    # The drawn images are square, so both policies give the same pixels.
    assert look_through(files[:3], WARP).sha256 == digest
