import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import refuse_listing
from PIL import Image

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP
from alexnet_deploy.inspection.describe import describe_source, describe_suspicions
from alexnet_deploy.train.data.folder import kept_for_validation
from alexnet_deploy.train.data.scan import DecodedImages, Survey, find_images, survey
from alexnet_deploy.train.data.source import LabelledSource


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def paint(path: Path, seed: int, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    """Write a PNG of noise around a random colour; return its pixels, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 128, 3)
    pixels = rng.integers(low, low + rng.integers(2, 128, 3), (size[1], size[0], 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


def paint_folder(root: Path) -> dict[str, np.ndarray]:
    """Paint two classes, three training and two validation images; return the pixels by name."""
    names = [
        f"{side}/{label}/{n}.png" for side, num in (("train", 3), ("val", 2)) for label in "ab" for n in range(num)
    ]
    return {name: paint(root / name, seed) for seed, name in enumerate(names)}


def names_in(folder: LabelledSource) -> tuple[list[str], list[str]]:
    """The training paths and the validation paths, relative to the root."""
    train, validation = ([example.name for example in side] for side in (folder.train, folder.validation))
    return train, validation


def surveyed(root: Path) -> Survey:
    return survey(find_images(root), SHORTER_SIDE)


# The split


@pytest.mark.parametrize("name", ["train/b/locked", "val/a/locked", "val/a"])
def test_a_folder_that_cannot_be_listed_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", f"{name}/2.jpg")
    refuse_listing(monkeypatch, tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: cannot be read: Permission denied$"):
        find_images(tmp_path)


def test_train_and_val_are_taken_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.jpg", "train/a/deep/er/2.jpg", "train/a/3.jpg", "val/a/1.jpg", "val/b/9.jpg")
    folder = find_images(tmp_path)
    assert folder.class_names == ("a", "b")
    assert names_in(folder) == (
        ["train/a/3.jpg", "train/a/deep/er/2.jpg", "train/b/1.jpg"],
        ["val/a/1.jpg", "val/b/9.jpg"],
    )
    assert [example.label for example in folder.train] == [0, 0, 1]
    assert [example.label for example in folder.validation] == [0, 1]


def test_hidden_folders_are_no_classes_and_files_beside_the_classes_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "train/readme.txt", "other/x.jpg")
    touch(tmp_path, "train/.git/1.jpg", "train/a/.thumbs/1.jpg", "train/a/.DS_Store", "val/.cache/1.jpg")
    folder = find_images(tmp_path)
    assert folder.class_names == ("a", "b")
    assert names_in(folder) == (["train/a/1.jpg", "train/b/1.jpg"], ["val/a/1.jpg", "val/b/1.jpg"])


def many(root: Path, numbers: range) -> LabelledSource:
    touch(root, *(f"{label}/{number:04}.jpg" for label in ("cat", "dog") for number in numbers), ".hidden/0001.jpg")
    return find_images(root)


def test_without_train_and_val_a_tenth_of_each_class_is_kept_for_validation(tmp_path: Path) -> None:
    folder = many(tmp_path, range(400))
    assert folder.class_names == ("cat", "dog")
    train, validation = names_in(folder)
    assert sorted(train + validation) == sorted(f"{label}/{n:04}.jpg" for label in ("cat", "dog") for n in range(400))
    assert [name.split("/")[0] for name in validation] == ["cat"] * 40 + ["dog"] * 40
    for side, names in ((folder.train, train), (folder.validation, validation)):
        assert [folder.class_names[example.label] for example in side] == [name.split("/")[0] for name in names]


@pytest.mark.parametrize("number", [2, 3, 5, 14, 15, 16, 24, 25, 26, 50, 200])
def test_each_class_of_two_images_or_more_has_both_sides_whatever_the_names(number: int) -> None:
    for naming in range(20):
        names = [Path(f"class/{naming}-{place}.jpg") for place in range(number)]
        kept = kept_for_validation(names)
        assert len(kept) == max(1, (number + 5) // 10) < number
        assert kept <= set(range(number))
    assert kept_for_validation([Path("class/1.jpg")]) == frozenset()


@given(st.sets(st.integers(0, 500), min_size=2, max_size=60), st.integers(501, 600))
def test_an_image_that_is_added_moves_at_most_one_other(numbers: set[int], new: int) -> None:
    before = [Path(f"cat/{number}.jpg") for number in sorted(numbers)]
    after = [*before, Path(f"cat/{new}.jpg")]
    kept, kept_then = ({names[place] for place in kept_for_validation(names)} for names in (before, after))
    assert len((kept ^ kept_then) - {after[-1]}) <= 1


def test_an_image_of_one_class_moves_none_of_another(tmp_path: Path) -> None:
    _, validation = names_in(many(tmp_path, range(40)))
    touch(tmp_path, *(f"cat/more-{number}.jpg" for number in range(60)), "bird/1.jpg", "bird/2.jpg")
    _, more = names_in(find_images(tmp_path))
    assert [name for name in more if "dog" in name] == [name for name in validation if "dog" in name]


def test_the_split_depends_on_no_name_above_the_root_and_on_no_order(tmp_path: Path) -> None:
    sides = names_in(many(tmp_path / "one", range(100, 200)))
    assert names_in(many(tmp_path / "elsewhere/two", range(100, 200))) == sides
    names = [Path(f"cat/{number}.jpg") for number in range(50)]
    assert {names[place] for place in kept_for_validation(names)} == {
        names[::-1][place] for place in kept_for_validation(names[::-1])
    }


def test_files_beside_the_images_take_no_place_in_the_validation_share() -> None:
    images = [Path(f"cat/{number}.JPG") for number in range(20)]
    sidecars = [Path(f"cat/{number}.xml") for number in range(200)]
    names = [*sidecars, *images]
    assert {names[place] for place in kept_for_validation(names)} == {
        images[place] for place in kept_for_validation(images)
    }
    # Files without an ending can be images too.
    assert len(kept_for_validation([Path(f"cat/{number}") for number in range(20)])) == 2


def test_the_split_is_the_same_in_every_version_of_this_program(tmp_path: Path) -> None:
    _, validation = names_in(many(tmp_path, range(40)))
    cats, dogs = (24, 26, 30, 37), (16, 28, 34, 38)
    assert validation == [f"cat/{n:04}.jpg" for n in cats] + [f"dog/{n:04}.jpg" for n in dogs]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_the_validation_folder_may_have_any_of_four_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{name}/a/2.jpg", f"{name}/b/2.jpg")
    assert names_in(find_images(tmp_path))[1] == [f"{name}/a/2.jpg", f"{name}/b/2.jpg"]


@pytest.mark.parametrize("name", ["val", "test"])
def test_validation_on_test_is_said(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{name}/a/2.jpg", f"{name}/b/2.jpg")
    first, *more = describe_source(find_images(tmp_path))
    assert first == f"{tmp_path}: 2 training images, 2 validation images, 2 classes"
    assert more == (["no val/ next to train/: using test/ for validation"] if name == "test" else [])


def test_test_is_left_alone_where_there_is_a_validation_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "valid/a/2.jpg", "valid/b/2.jpg", "test/a/3.jpg", "test/c/3.jpg")
    assert names_in(find_images(tmp_path))[1] == ["valid/a/2.jpg", "valid/b/2.jpg"]


# Refused data


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: there is no such folder$"):
        find_images(tmp_path / "nothing")
    touch(tmp_path, "file")
    with pytest.raises(DataError, match=r"file: is a file, not a folder of images by class$"):
        find_images(tmp_path / "file")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [".hidden/1.jpg", "1.jpg"],
            "0 class folders, but a classifier needs two or more; put the images of each class into their own",
        ),
        (
            ["a/1.jpg", "a/2.jpg", ".b/1.jpg"],
            "1 class folder, but a classifier needs two or more; put the images of each class into their own",
        ),
        (
            ["train/a/1.jpg", "val/a/1.jpg"],
            "1 class folder, but a classifier needs two or more; put the images of each class into their own",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg"],
            r"has train/ but no validation folder \(val/, valid/, validation/, test/\); add one, or put the class",
        ),
        (
            ["train/a/1", "train/b/1", "train/c/1", "val/a/1", "val/d/1"],
            r"train/ has the classes b, c, val/ does not; val/ has the class d, train/ does not$",
        ),
        (["train/a/1", "train/b/1", "test/a/1"], r"train/ has the class b, test/ does not$"),
        (
            ["train/a/1", "train/b/1", "val/a/1", "validation/a/1"],
            r"has val/ and validation/; keep one validation folder$",
        ),
        (["train/a/1", "train/b/.1", "val/a/1", "val/b/1"], "the class 'b' has no readable training image"),
        (["train/a/1", "train/b/1", "val/a/.1", "val/b/1"], "the class 'a' has no readable validation image"),
        (["a/1", "b/1"], "the class '[ab]' has no readable (training|validation) image"),
    ],
)
def test_a_folder_that_does_not_give_two_classes_on_both_sides_is_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=f"^{tmp_path}: {message}"):
        find_images(tmp_path)


@pytest.mark.parametrize("name", ["two\nlines", " ", os.fsdecode(b"caf\xe9")])
def test_a_class_whose_name_could_not_be_a_label_is_refused_before_training(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *(f"{side}/{label}/1.jpg" for side in ("train", "val") for label in ("a", name)))
    with pytest.raises(DataError, match="cannot be a label"):
        find_images(tmp_path)


# The survey


def test_mean_and_covariance_are_those_of_all_training_pixels_at_once(tmp_path: Path) -> None:
    painted = paint_folder(tmp_path)
    pixels = np.concatenate([image.reshape(-1, 3) for name, image in painted.items() if name.startswith("train")])
    assert len(pixels) == 6 * 256 * 256
    found = surveyed(tmp_path)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(pixels.T.astype(np.float64), bias=True), rtol=0, atol=1e-9)


def test_pixels_are_counted_as_the_network_will_see_them(tmp_path: Path) -> None:
    paint_folder(tmp_path)
    striped = np.zeros((100, 300, 3), np.uint8)
    striped[:, 100:200] = 255
    for name in ("train/a/0.png", "train/a/1.png", "train/a/2.png", "train/b/0.png", "train/b/1.png", "train/b/2.png"):
        Image.fromarray(striped).save(tmp_path / name)
    folder = find_images(tmp_path)
    np.testing.assert_allclose(survey(folder, SHORTER_SIDE).mean, 255.0, atol=1.0)
    np.testing.assert_allclose(survey(folder, WARP).mean, 85.0, atol=1.0)


def test_images_that_cannot_be_read_are_left_out_by_name_and_code(tmp_path: Path) -> None:
    painted = paint_folder(tmp_path)
    whole = (tmp_path / "train/a/0.png").read_bytes()
    broken = {
        "train/a/00.png": (b"", "empty"),
        "train/a/notes.txt": (b"not an image", "not_an_image"),
        "train/b/sub/half.png": (whole[: len(whole) // 2], "truncated"),
        "val/b/movie.ico": (b"\0\0\1\0\1\0" + bytes(40), "unsupported_format"),
    }
    clean = surveyed(tmp_path)
    for name, (data, _) in broken.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "val/a/loop").symlink_to(".")
    found = surveyed(tmp_path)
    assert found.excluded == {name: code for name, (_, code) in broken.items()}
    assert found.folder == clean.folder
    assert clean.excluded == {}
    assert found.sha256 == clean.sha256
    np.testing.assert_array_equal(found.mean, clean.mean)
    np.testing.assert_array_equal(found.covariance, clean.covariance)
    for example, name in zip(found.folder.train, [name for name in painted if name.startswith("train")], strict=True):
        assert example.place == str(tmp_path / name)


def test_files_with_the_same_bytes_on_both_sides_are_found_and_said(tmp_path: Path) -> None:
    paint_folder(tmp_path)
    assert surveyed(tmp_path).duplicates == ()
    copy(tmp_path, "train/b/1.png", "val/a/same.png", "val/b/same.png")
    copy(tmp_path, "val/a/0.png", "val/a/twin.png")
    found = surveyed(tmp_path)
    assert found.duplicates == (("train/b/1.png", "val/a/same.png"), ("train/b/1.png", "val/b/same.png"))
    (line,) = describe_suspicions(found)
    assert line == (
        "duplicates: 2 validation images identical to a training image, so top-1 is too high: "
        "val/a/same.png = train/b/1.png, val/b/same.png = train/b/1.png"
    )


def test_many_duplicates_are_named_by_the_first_three(tmp_path: Path) -> None:
    paint_folder(tmp_path)
    copy(tmp_path, "train/a/0.png", *(f"val/a/{number}-.png" for number in range(4)))
    (line,) = describe_suspicions(surveyed(tmp_path))
    assert line.startswith("duplicates: 4 validation images identical to a training image, ")
    assert line.endswith("val/a/2-.png = train/a/0.png, ...")


def test_imbalance_is_said_from_over_three_to_one_on(tmp_path: Path) -> None:
    for number in range(3):
        paint_one(tmp_path / f"train/a/{number}.png", number)
    for number, name in enumerate(("train/b/0.png", "val/a/0.png", "val/b/0.png"), 10):
        paint_one(tmp_path / name, number)
    assert list(describe_suspicions(surveyed(tmp_path))) == []
    paint_one(tmp_path / "train/a/3.png", 3)
    (line,) = describe_suspicions(surveyed(tmp_path))
    assert line == (
        "imbalanced classes: 4 training images of a, 1 of b; --set class_weights=balanced gives all classes the same "
        "weight"
    )
    (line,) = describe_suspicions(surveyed(tmp_path), is_balanced=True)
    assert line == "imbalanced classes: 4 training images of a, 1 of b"


def paint_one(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def copy(root: Path, source: str, *targets: str) -> None:
    for target in targets:
        (root / target).write_bytes((root / source).read_bytes())


def test_a_class_with_only_unreadable_images_is_refused(tmp_path: Path) -> None:
    paint_folder(tmp_path)
    for number in range(2):
        (tmp_path / f"val/b/{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="the class 'b' has no readable validation image"):
        surveyed(tmp_path)


def test_the_digest_is_of_names_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    paint_folder(tmp_path / "one")
    digest = surveyed(tmp_path / "one").sha256
    assert surveyed(tmp_path / "one").sha256 == digest
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert surveyed(tmp_path / "two").sha256 == digest
    for side in ("train", "val"):
        # The new name has the old one's place in the order.
        first, other = (tmp_path / f"two/{side}/a/{name}.png" for name in ("0", "00"))
        # Bytes after a PNG's last chunk change the file and not the pixels.
        whole = first.read_bytes()
        first.write_bytes(whole + b"\0")
        assert surveyed(tmp_path / "two").sha256 != digest
        first.write_bytes(whole)
        assert surveyed(tmp_path / "two").sha256 == digest
        first.rename(other)
        assert surveyed(tmp_path / "two").sha256 != digest
        other.rename(first)


def test_names_that_are_not_utf_8_are_surveyed_and_can_be_recorded(tmp_path: Path) -> None:
    paint_folder(tmp_path)
    good, broken = (tmp_path / "train/a" / os.fsdecode(name) for name in (b"\xe9.png", b"caf\xe9.png"))
    paint(good, 99)
    broken.write_bytes(b"")
    found = surveyed(tmp_path)
    assert str(good) in [example.place for example in found.folder.train]
    assert found.excluded == {r"train/a/caf\xe9.png": "empty"}


# One image


def test_an_image_comes_with_its_label(tmp_path: Path) -> None:
    painted = paint_folder(tmp_path)
    folder = find_images(tmp_path)
    for examples, side in ((folder.train, "train"), (folder.validation, "val")):
        images = DecodedImages(examples, SHORTER_SIDE)
        names = [name for name in painted if name.startswith(side)]
        assert len(images) == len(names)
        for index, name in enumerate(names):
            image, label = images[index]
            np.testing.assert_array_equal(image, painted[name])
            assert folder.class_names[label] == name.split("/")[1]


def test_an_image_that_vanishes_after_the_survey_is_named(tmp_path: Path) -> None:
    paint_folder(tmp_path)
    images = DecodedImages(surveyed(tmp_path).folder.train, SHORTER_SIDE)
    (tmp_path / "train/b/1.png").unlink()
    with pytest.raises(
        DataError, match=r"b/1\.png: cannot be read any more; it could be read before: there is no such file"
    ):
        images[4]
    np.testing.assert_equal(images[3][0].shape, (256, 256, 3))
