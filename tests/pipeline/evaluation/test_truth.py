"""Ground truth: classes are matched by name, and a class without a label is an error."""

from pathlib import Path

import numpy as np
import pytest
from archives import TRUTH, WNIDS, cifar_batches, ilsvrc_images, write_batches, write_ilsvrc
from PIL import Image

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS
from alexnet_deploy.core.model.labels import imagenet_labels, imagenet_wnids
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.pipeline.evaluation.truth import find_labelled_inputs, match_classes
from alexnet_deploy.predict.stream import decode_input

LABELS = ("hot-air balloon", "Mountain Bike", "tench")


def test_names_match_exactly_then_without_case_and_separators() -> None:
    found = match_classes(["tench", "mountain_bike", "Hot Air Balloon"], LABELS, "data")
    assert found.indices == (2, 1, 0)
    assert found.remark == "matched 2 classes by name: mountain_bike = Mountain Bike, Hot Air Balloon = hot-air balloon"
    assert match_classes(LABELS, LABELS, "data").remark == ""


def test_an_exact_name_wins_over_a_similar_one() -> None:
    labels = ("crane bird", "crane_bird", "crane")
    assert match_classes(["crane_bird", "crane bird"], labels, "data").indices == (1, 0)


@pytest.mark.parametrize(
    ("names", "labels", "sentence"),
    [
        (["cat"], ("cats", "dogs"), "data: the bundle has no class cat; its classes are cats, dogs"),
        # Two labels that differ only in case: neither can be chosen.
        (["A"], ("a b", "a_b"), "data: the bundle has no class A; its classes are a b, a_b"),
        (["A-B"], ("a b", "a_b"), "data: the bundle has no class A-B; its classes are a b, a_b"),
        (["n01440764"], LABELS, "data: the bundle has no class n01440764"),
        (["tench", "Tench"], LABELS, "data: two classes match the label tench"),
    ],
)
def test_a_class_without_one_label_is_refused(names: list[str], labels: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(DataError, match=f"^{sentence}"):
        match_classes(names, labels, "data")


def test_wordnet_ids_match_imagenets_labels_one_by_one() -> None:
    labels, wnids = imagenet_labels(), imagenet_wnids()
    assert len(wnids) == len(set(wnids)) == len(labels) == 1000
    assert list(wnids) == sorted(wnids)
    # Known pairs, from the first to the last class: tench, great grey owl, accordion, toilet tissue.
    for wnid, label in (
        ("n01440764", "tench"),
        ("n01622779", "great grey owl"),
        ("n02672831", "accordion"),
        ("n15075141", "toilet tissue"),
    ):
        (index,) = match_classes([wnid], labels, "data").indices
        assert labels[index] == label


def test_a_validation_archive_is_enough(tmp_path: Path) -> None:
    root = write_ilsvrc(tmp_path / "ilsvrc", ilsvrc_images())
    (root / "ILSVRC2012_img_train.tar").unlink()
    for data in (root, root / "ILSVRC2012_img_val.tar"):
        found = find_labelled_inputs(data, ())
        assert found.class_names == tuple(sorted(WNIDS))
        named = [(item.name, found.class_names[label]) for item, label in zip(found.inputs, found.classes, strict=True)]
        assert sorted(named) == sorted(
            (f"val/{WNIDS[truth - 1]}/ILSVRC2012_val_{number:08}.JPEG", WNIDS[truth - 1])
            for number, truth in enumerate(TRUTH, start=1)
        )
        pixels = decode_input(found.inputs[0], SHORTER_SIDE, DEFAULT_LIMITS)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (256, 256, 3))


def test_cifar10s_test_batch_is_enough(tmp_path: Path) -> None:
    batches = {name: batch for name, batch in cifar_batches().items() if not name.startswith("data_batch_")}
    root = write_batches(tmp_path / "cifar", batches)
    found = find_labelled_inputs(root, ())
    assert found.class_names[:2] == ("airplane", "automobile")
    for item, label in zip(found.inputs, found.classes, strict=True):
        assert item.name.startswith(f"val/{found.class_names[label]}/")


def test_a_folder_is_its_validation_folder_and_unreadable_files_are_inputs_too(tmp_path: Path) -> None:
    for name in ("train/cats", "val/cats", "val/dogs"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "val/cats/b.png")
    (tmp_path / "val/cats/a.png").write_bytes(b"no image")
    Image.new("RGB", (20, 20)).save(tmp_path / "val/dogs/c.png")
    found = find_labelled_inputs(tmp_path, ("cats", "dogs"))
    assert [item.path.name for item in found.inputs] == ["a.png", "b.png", "c.png"]
    assert found.classes.tolist() == [0, 0, 1]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders found"):
        find_labelled_inputs(tmp_path, ())
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="cats: no images found; remove the folder"):
        find_labelled_inputs(tmp_path, ())
    with pytest.raises(DataError, match="not a folder, and not an archive"):
        find_labelled_inputs(tmp_path / "none", ())
