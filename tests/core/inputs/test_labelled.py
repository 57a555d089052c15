import os
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_image
from alexnet_deploy.core.inputs.labelled import find_labelled, is_labelled

LABELS = ("zebra", "apple", "moth")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, number in (("zebra", 3), ("apple", 2)):
        (tmp_path / name).mkdir()
        for index in range(number):
            (tmp_path / name / f"{index}.jpg").write_bytes(f"{name}{index}".encode())
    return tmp_path


def places(root: Path, labels: tuple[str, ...] = LABELS) -> list[tuple[str, str]]:
    found = find_labelled(root, labels)
    return [(p.path.relative_to(found.root).as_posix(), labels[p.label]) for p in found.images]


def test_images_are_sorted_by_class_and_name_and_carry_the_weights_own_index(root: Path) -> None:
    expected = [(f"apple/{n}.jpg", "apple") for n in range(2)] + [(f"zebra/{n}.jpg", "zebra") for n in range(3)]
    assert places(root) == expected
    assert [image.label for image in find_labelled(root, LABELS).images] == [1, 1, 0, 0, 0]
    # In any order of the labels.
    assert places(root, LABELS[::-1]) == expected


def test_val_is_taken_where_there_is_one(root: Path) -> None:
    for side in ("train", "val"):
        shutil.copytree(root / "apple", root.parent / f"split-{root.name}" / side / "apple")
    split = root.parent / f"split-{root.name}"
    (split / "val/apple/1.jpg").unlink()
    assert places(split) == [("apple/0.jpg", "apple")]
    assert find_labelled(split, LABELS).root == split / "val"
    assert is_labelled(split, LABELS)


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_the_validation_folder(root: Path, name: str) -> None:
    split = root.parent / f"split-{root.name}"
    shutil.copytree(root, split / name)
    assert is_labelled(split, LABELS)
    assert find_labelled(split, LABELS).root == split / name
    (split / "val/apple").mkdir(parents=True)
    if name == "test":
        assert find_labelled_root(split) == "val"
    else:
        assert not is_labelled(split, LABELS)
        with pytest.raises(DataError, match=f"has val/ and {name}/; keep one validation folder$"):
            find_labelled(split, LABELS)


def find_labelled_root(split: Path) -> str:
    (split / "val/apple/0.jpg").write_bytes(b"0")
    return find_labelled(split, LABELS).root.name


def test_a_class_may_be_called_as_a_validation_folder_is(root: Path) -> None:
    (root / "test").mkdir()
    (root / "test/0.jpg").write_bytes(b"0")
    assert ("test/0.jpg", "test") in places(root, (*LABELS, "test"))
    assert len(places(root, (*LABELS, "test"))) == 6


def test_folders_within_a_class_and_hidden_ones(root: Path) -> None:
    (root / "apple/more").mkdir()
    (root / "apple/more/9.jpg").write_bytes(b"9")
    (root / ".cache").mkdir()
    (root / "readme.txt").write_text("not a class")
    assert ("apple/more/9.jpg", "apple") in places(root)
    assert len(places(root)) == 6
    assert is_labelled(root, LABELS)


def test_class_without_a_folder_is_allowed_and_folder_without_a_class_is_not(root: Path) -> None:
    (root / "moth").mkdir()
    assert len(places(root)) == 5
    (root / "bat").mkdir()
    with pytest.raises(DataError, match=r"the weights have no class bat; their classes are zebra, apple, moth$"):
        find_labelled(root, LABELS)
    assert not is_labelled(root, LABELS)


def test_many_strangers_are_named_in_part(root: Path) -> None:
    for name in ("b1", "b2", "b3", "b4"):
        (root / name).mkdir()
    labels = (*LABELS, "a fourth")
    with pytest.raises(DataError, match=r"no class b1, b2, b3, \.\.\.; their classes are zebra, apple, moth, \.\.\.$"):
        find_labelled(root, labels)


@pytest.mark.parametrize("name", ["[ab]*", "-", "wei\u00dfer Hai", "?"])
def test_class_may_be_called_anything(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.jpg").write_bytes(b"0")
    assert places(tmp_path, (name,)) == [(f"{name}/0.jpg", name)]


def test_folder_without_images_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path, "no images found in class folders; put them into CLASS/"),
        (tmp_path / "nothing", "nothing: not a folder"),
    ):
        with pytest.raises(DataError, match=sentence):
            find_labelled(path, LABELS)
        assert not is_labelled(path, LABELS)


def test_images_without_classes_are_no_labelled_folder(images: Path) -> None:
    assert not is_labelled(images, DRAWN_CLASSES)


def test_link_in_a_circle_changes_nothing(root: Path) -> None:
    before = find_labelled(root, LABELS)
    (root / "apple/back").symlink_to(root / "apple")
    assert find_labelled(root, LABELS) == before


def test_file_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "apple/gone.jpg").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"apple/gone\.jpg: cannot be read: No such file or directory"):
        find_labelled(root, LABELS)


def test_digest_is_of_names_and_bytes_and_of_nothing_else(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = find_labelled(root, LABELS).sha256
    elsewhere = tmp_path_factory.mktemp("moved") / "copy"
    shutil.copytree(root, elsewhere)
    os.utime(elsewhere / "apple/0.jpg", (0, 0))
    assert find_labelled(elsewhere, LABELS).sha256 == before
    assert find_labelled(elsewhere, LABELS[::-1]).sha256 == before
    (elsewhere / "apple/0.jpg").rename(elsewhere / "apple/9.jpg")
    renamed = find_labelled(elsewhere, LABELS).sha256
    (elsewhere / "apple/9.jpg").rename(elsewhere / "apple/0.jpg")
    (elsewhere / "apple/0.jpg").write_bytes(b"other bytes")
    changed = find_labelled(elsewhere, LABELS).sha256
    (elsewhere / "zebra/0.jpg").rename(elsewhere / "apple/8.jpg")
    assert len({before, renamed, changed, find_labelled(elsewhere, LABELS).sha256}) == 4


def test_name_that_is_not_utf_8_has_a_digest_too(root: Path) -> None:
    draw_image(DRAWN_CLASSES[0], 1).save(root / "apple" / "x.jpg")
    (root / "apple/x.jpg").rename(root / "apple" / os.fsdecode(b"caf\xe9.jpg"))
    assert len(find_labelled(root, LABELS).sha256) == 64
