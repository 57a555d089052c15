import io
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import COLORS, TRUTH, WNIDS, ilsvrc_images, meta_of, tar_of, write_devkit, write_folder, write_ilsvrc

from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP
from alexnet_deploy.train.data.ilsvrc import DEVKIT, MAPPING, TRAIN, VALIDATION
from alexnet_deploy.train.data.ilsvrc_devkit import synsets
from alexnet_deploy.train.data.scan import DecodedImages, find_images, survey
from alexnet_deploy.train.data.tar import TarImage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ilsvrc(tmp_path_factory.mktemp("ilsvrc") / "whole", ilsvrc_images())


@pytest.fixture
def archives(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "archives"))


def test_the_archives_are_the_folder_that_unpacking_them_makes(whole: Path, tmp_path: Path) -> None:
    before = sorted(whole.rglob("*"))
    folder = survey(find_images(write_folder(tmp_path / "folder", ilsvrc_images())), SHORTER_SIDE)
    found = survey(find_images(whole), SHORTER_SIDE)
    assert found.folder.class_names == folder.folder.class_names == tuple(sorted(WNIDS))
    for side, other in ((found.folder.train, folder.folder.train), (found.folder.validation, folder.folder.validation)):
        assert [(example.name, example.label) for example in side] == [(one.name, one.label) for one in other]
    assert found.excluded == folder.excluded == {"train/n02119789/n02119789_10.JPEG": "truncated"}
    assert found.sha256 == folder.sha256
    np.testing.assert_array_equal(found.mean, folder.mean)
    np.testing.assert_array_equal(found.covariance, folder.covariance)
    pairs = zip(
        DecodedImages(found.folder.train, WARP),
        DecodedImages(folder.folder.train, WARP),
        strict=True,  # type: ignore[call-overload]
    )
    for (image, _), (wanted, _) in pairs:
        np.testing.assert_array_equal(image, wanted)
    assert sorted(whole.rglob("*")) == before


def test_each_image_shows_the_class_of_its_label_also_where_the_devkit_numbers_otherwise(whole: Path) -> None:
    source = find_images(whole)
    assert len(source.validation) == len(TRUTH)
    for example in (*source.train, *source.validation):
        if not example.name.endswith(("_9.JPEG", "_10.JPEG")):
            seen = example.decode(example.read(), SHORTER_SIDE).mean(axis=(0, 1))
            np.testing.assert_allclose(seen, COLORS[source.class_names[example.label]], atol=8)


def test_a_file_of_wnids_stands_in_for_the_devkit(archives: Path, whole: Path) -> None:
    (archives / DEVKIT).unlink()
    with pytest.raises(DataError, match=f"has neither {DEVKIT} nor {MAPPING}; one is needed"):
        find_images(archives)
    (archives / MAPPING).write_text("".join(f"{WNIDS[number - 1]}\n" for number in TRUTH))
    labels = [[(example.name, example.label) for example in find_images(root).validation] for root in (archives, whole)]
    assert labels[0] == labels[1]
    (archives / MAPPING).write_text("n02119789 kit fox\n")
    with pytest.raises(DataError, match=r"contains 'kit'; each line must be a WNID such as n01440764$"):
        find_images(archives)


def test_folders_hidden_files_and_the_notes_of_newer_programs_are_passed_over(archives: Path, whole: Path) -> None:
    file = io.BytesIO()
    with (
        tarfile.open(whole / VALIDATION) as old,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        folder = tarfile.TarInfo("./val")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        hidden = tarfile.TarInfo("./val/._ILSVRC2012_val_00000001.JPEG")
        tar.addfile(hidden)
        for member in old:
            data = old.extractfile(member)
            member.name, member.mtime = f"./val/{member.name}", 1.5
            tar.addfile(member, data)
    (archives / VALIDATION).write_bytes(file.getvalue())
    assert b"mtime=1.5" in file.getvalue()
    before, after = (survey(find_images(root), SHORTER_SIDE) for root in (whole, archives))
    assert before.sha256 == after.sha256


# Refusals


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
def test_an_archive_that_ends_early_is_refused_wherever_it_was_cut(archives: Path, name: str) -> None:
    data = (archives / name).read_bytes()
    # Also between two members, and in the padding after the last.
    end = data.rstrip(b"\0")
    for length in [0, 100, 512, 700, *range(512, len(end), 3 * 512), len(end), -(-len(end) // 512) * 512]:
        (archives / name).write_bytes(data[:length])
        with pytest.raises(DataError, match=rf"{name}.*(ends after [\d,]+ bytes|no tar header at byte)"):
            find_images(archives)


def test_an_archive_with_a_damaged_header_is_refused_and_not_taken_to_end_there(archives: Path) -> None:
    data = bytearray((archives / VALIDATION).read_bytes())
    place = data.index(b"ILSVRC2012_val_00000004")
    data[place] ^= 1
    (archives / VALIDATION).write_bytes(data)
    with pytest.raises(
        DataError, match=rf"{VALIDATION}: no tar header at byte {place:,} .*; it is damaged or not a tar archive$"
    ):
        find_images(archives)
    # tarfile finds three images and reports no error.
    with tarfile.open(archives / VALIDATION) as tar:
        assert len(tar.getnames()) == 3


def replace_train(root: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with tarfile.open(root / TRAIN) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    change(files)
    (root / TRAIN).write_bytes(tar_of(files))


def replace_validation(root: Path, *names: str) -> None:
    (root / VALIDATION).write_bytes(tar_of(dict.fromkeys(names, b"x")))


def link_in(root: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        link = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (root / VALIDATION).write_bytes(file.getvalue())


VAL = tuple(f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 8))
ONE = {"a.JPEG": b"x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / TRAIN).unlink(), f"has no {TRAIN}; both image archives"),
        (lambda root: (root / VALIDATION).unlink(), f"has no {VALIDATION}; both image archives"),
        (
            lambda root: replace_train(root, lambda files: files.update({"x.jpg": b"x"})),
            "contains x.jpg; only archives",
        ),
        (
            lambda root: replace_train(root, lambda files: files.update({"n00000001.tar": tar_of(ONE)})),
            "the training archive has the class n00000001, the list of validation labels does not$",
        ),
        (
            lambda root: replace_train(root, lambda files: files.pop("n02119789.tar")),
            "the list of validation labels has the class n02119789, the training archive does not$",
        ),
        (
            lambda root: replace_train(root, lambda files: files.update({"n02119789.tar": tar_of({})})),
            "the class 'n02119789' has no readable training image",
        ),
        (
            lambda root: replace_train(root, lambda files: files.update({"old/n02119789.tar": tar_of(ONE)})),
            r"contains n02119789\.tar twice",
        ),
        (
            lambda root: replace_train(
                root, lambda files: files.update({"n02119789.tar": tar_of(ONE | {"d/a.JPEG": b""})})
            ),
            r"contains train/n02119789/a\.JPEG twice",
        ),
        (lambda root: replace_validation(root, *VAL), "ILSVRC2012_val_00000007.JPEG, which is not one of the 6"),
        (lambda root: replace_validation(root, "a.JPEG", *VAL), r"contains a\.JPEG, which is not one of the 6"),
        (lambda root: replace_validation(root, *VAL[:2], *VAL[3:5]), "missing: 2 in all, the first is image 3$"),
        (link_in, "is a link or a special file"),
        (lambda root: write_devkit(root, "1\n0\n", meta_of(WNIDS)), "line 2 of .* is b'0', which is not a class"),
        (lambda root: write_devkit(root, "4\n", meta_of(WNIDS)), "line 1 of .* is b'4', which is not a class"),
        (lambda root: write_devkit(root, "1\n", b"no matrix"), r"meta\.mat cannot be read .*; use a file of WNIDs"),
        (lambda root: (root / DEVKIT).write_bytes(b"no tar"), "devkit_t12.tar.gz: cannot be read"),
        (lambda root: (root / DEVKIT).write_bytes((root / DEVKIT).read_bytes()[:300]), "devkit_t12.tar.gz: cannot be"),
    ],
)
def test_what_is_not_the_data_set_is_refused(archives: Path, change: Callable[[Path], object], message: str) -> None:
    change(archives)
    with pytest.raises(DataError, match=message) as caught:
        find_images(archives)
    assert "\n" not in str(caught.value)


def test_an_archive_that_shrinks_or_goes_after_it_was_looked_through_gives_coded_errors(archives: Path) -> None:
    source = find_images(archives)
    first, last = source.validation[0], source.validation[-1]
    assert isinstance(last, TarImage)
    os.truncate(archives / VALIDATION, last.offset + last.num_bytes - 1)
    first.read()
    with pytest.raises(ImageError, match="ends before the image does") as caught:
        last.read()
    assert caught.value.code == "truncated"
    (archives / VALIDATION).unlink()
    with pytest.raises(ImageError) as caught:
        first.read()
    assert caught.value.code == "missing"
    with pytest.raises(
        DataError, match=r"val\.tar, val/n\d{8}/ILSVRC2012_val_\d{8}\.JPEG: cannot be read any more; it could be read"
    ):
        DecodedImages(source.validation, WARP)[0]


# The devkit's list of classes


@pytest.mark.parametrize("text_kind", [4, 16, 17])
@pytest.mark.parametrize("is_compressed", [True, False])
def test_classes_are_read_from_a_matlab_file_and_those_above_them_left_out(text_kind: int, is_compressed: bool) -> None:
    found = synsets(meta_of(WNIDS, text_kind=text_kind, is_compressed=is_compressed))
    assert found == {1: "n02119789", 2: "n01440764", 3: "n02100735"}


def test_a_thousand_classes_are_read_whatever_width_their_numbers_are_stored_in() -> None:
    wnids = [f"n{number * 7919 % 100_000_000:08}" for number in range(1000)]
    assert synsets(meta_of(wnids)) == dict(enumerate(wnids, start=1))


@pytest.mark.parametrize("numbers", [(1, 2, 2), (1, 2, 4), (0, 1, 2)])
def test_classes_that_are_not_numbered_from_1_without_a_gap_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not consecutive from 1"):
        synsets(meta_of(WNIDS, numbers=numbers))
    with pytest.raises(ValueError, match="not consecutive from 1"):
        synsets(meta_of((WNIDS[0], WNIDS[1], WNIDS[1])))


@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_matlab_file_that_ends_early_gives_no_classes(is_compressed: bool) -> None:
    data = meta_of(WNIDS, is_compressed=is_compressed)
    # The last bytes may be padding.
    for length in range(0, len(data) - 8, 7):
        with pytest.raises((ValueError, LookupError, struct.error, zlib.error)):
            synsets(data[:length])
