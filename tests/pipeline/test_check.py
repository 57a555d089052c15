"""The images that `check` compares on, in addition to the golden images."""

from pathlib import Path

import pytest
from odd_files import refuse_listing

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.pipeline.check import images_in


def test_a_folder_that_cannot_be_listed_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mixed/locked").mkdir(parents=True)
    (tmp_path / "mixed/a.jpg").write_bytes((images / "a.jpg").read_bytes())
    refuse_listing(monkeypatch, tmp_path / "mixed/locked")
    with pytest.raises(DataError, match=r"mixed/locked: cannot be read: Permission denied$"):
        images_in(tmp_path / "mixed", ["cat", "dog"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images to compare on"):
        images_in(tmp_path, ["cat", "dog"])


def test_a_linked_folder_is_compared_on_once(images: Path, tmp_path: Path) -> None:
    (tmp_path / "data/real").mkdir(parents=True)
    (tmp_path / "data/real/a.jpg").write_bytes((images / "a.jpg").read_bytes())
    (tmp_path / "data/alias").symlink_to("real")
    assert images_in(tmp_path / "data", ["cat", "dog"]).files == (tmp_path / "data/real/a.jpg",)
