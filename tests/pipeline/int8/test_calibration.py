"""Calibration: which images are used, with which method, and when cached histograms are reused."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from archives import cifar_batches, write_cifar
from networks import separating_weights
from odd_files import refuse_listing

from alexnet_deploy.core.bundle.vocabulary import CALIBRATION_METHODS, CalibrationMethod
from alexnet_deploy.core.errors import AlexNetDeployError, DataError, UsageError
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.pipeline.int8.calibration import Calibrated, Int8Request, calibrate, evenly
from alexnet_deploy.train.data.scan import find_images, survey
from alexnet_deploy.train.pack.writer import pack


def calibrated(weights: Weights, folder: Path | None = None, **options: object) -> tuple[Calibrated, list[str]]:
    """Return the calibration result and the progress lines."""
    said: list[str] = []
    return calibrate(weights, Int8Request(calibrate=folder, **options), said.append), said  # type: ignore[arg-type]


def refused(match: str, error: type[AlexNetDeployError], weights: Weights, folder: Path | None = None) -> None:
    with pytest.raises(error, match=match) as caught:
        calibrated(weights, folder)
    assert "\n" not in str(caught.value)


def test_training_images_calibrate_unless_others_are_given(sure: Weights, drawn: Path, images: Path) -> None:
    own, said = calibrated(sure)
    assert said[0] == f"calibrating on the training images in {drawn}"
    assert own.calibration.num_images == 16
    other, said = calibrated(sure, images)
    assert other.calibration.num_images == 12
    assert not any("training" in line for line in said)
    assert own.calibration.images_sha256 != other.calibration.images_sha256
    assert own.calibration.graph_sha256 == other.calibration.graph_sha256
    assert own.ranges != other.ranges
    # The range covers every possible image, independent of the calibration images.
    assert own.ranges["conv1"] == other.ranges["conv1"]


def test_training_images_that_are_others_now_are_refused(sure: Weights, drawn: Path, tmp_path: Path) -> None:
    assert sure.training is not None
    moved = replace(sure, training=msgspec.structs.replace(sure.training, data=str(tmp_path / "drawn")))
    refused(r"the training images cannot be read: .*: there is no such folder; pass --calibrate DIR", UsageError, moved)
    shutil.copytree(drawn, tmp_path / "drawn")
    assert calibrated(moved)[0].ranges == calibrated(sure)[0].ranges
    image = next((tmp_path / "drawn/train").rglob("*.jpg"))
    shutil.copy(next((tmp_path / "drawn/val").rglob("*.jpg")), image)
    refused(
        r"drawn: its training and validation images differ from those .*; pass --calibrate DIR to calibrate",
        UsageError,
        moved,
    )


def test_weights_trained_on_a_pack_calibrate_on_it_when_its_files_are_gone(
    sure: Weights, drawn: Path, tmp_path: Path
) -> None:
    assert sure.training is not None
    shutil.copytree(drawn, tmp_path / "files")
    packed = pack(find_images(tmp_path / "files"), tmp_path / "drawn.pack", sure.preprocessing.image_policy)
    learnt = msgspec.structs.replace(sure.training, data=str(packed.path), data_sha256=packed.header.source_sha256)
    shutil.rmtree(tmp_path / "files")
    found, said = calibrated(replace(sure, training=learnt))
    assert said[0] == f"calibrating on the training images in {tmp_path}/drawn.pack"
    expected = calibrated(sure)[0]
    assert (found.calibration, found.ranges) == (expected.calibration, expected.ranges)


def test_weights_trained_on_archives_calibrate_on_them(sure: Weights, tmp_path: Path) -> None:
    assert sure.training is not None
    root = write_cifar(tmp_path, cifar_batches())
    surveyed = survey(find_images(root), sure.preprocessing.image_policy)
    learnt = msgspec.structs.replace(sure.training, data=str(root), data_sha256=surveyed.sha256)
    found, _ = calibrated(replace(sure, training=learnt), num_images=40)
    assert found.calibration.num_images == 40
    assert found.images.sources == tuple(evenly(surveyed.folder.train, 40))


def test_a_pack_and_archives_are_calibrated_on_by_name(sure: Weights, drawn: Path, tmp_path: Path) -> None:
    packed = pack(find_images(drawn), tmp_path / "drawn.pack", sure.preprocessing.image_policy)
    by_pack, by_files = (calibrated(sure, place)[0] for place in (packed.path, drawn / "train"))
    assert by_pack.calibration == by_files.calibration
    assert by_pack.ranges == by_files.ranges
    root = write_cifar(tmp_path, cifar_batches())
    assert calibrated(sure, root, num_images=33)[0].calibration.num_images == 33


def test_a_pack_of_another_resize_is_refused(sure: Weights, drawn: Path, tmp_path: Path) -> None:
    other = next(policy for policy in (SHORTER_SIDE, WARP) if policy != sure.preprocessing.image_policy)
    packed = pack(find_images(drawn), tmp_path / "drawn.pack", other)
    refused("was packed with --resize", DataError, sure, packed.path)


def test_weights_of_unknown_origin_need_images(sure: Weights, images: Path) -> None:
    unknown = replace(sure, training=None)
    refused(r"these weights record no training images; pass --calibrate DIR to", UsageError, unknown)
    assert calibrated(unknown, images)[0].calibration.num_images == 12


def test_folder_that_gives_nothing_to_calibrate_on_is_refused(sure: Weights, tmp_path: Path) -> None:
    refused("nothing: there is no such folder of images", UsageError, sure, tmp_path / "nothing")
    refused("holds no images to calibrate on", UsageError, sure, tmp_path)
    (tmp_path / "a.jpg").touch()
    refused("a.jpg: is not a folder of calibration images", DataError, sure, tmp_path / "a.jpg")
    refused("none of the calibration images can be decoded", DataError, sure, tmp_path)


def test_bad_image_is_left_out_and_named(sure: Weights, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "mixed")
    (tmp_path / "mixed/aa.jpg").write_bytes(b"not an image")
    mixed, said = calibrated(sure, tmp_path / "mixed")
    assert f"skipped, not_an_image: {tmp_path}/mixed/aa.jpg" in said
    clean, _ = calibrated(sure, images)
    assert (mixed.calibration, mixed.ranges) == (clean.calibration, clean.ranges)


def test_so_many_images_and_no_more_evenly_spaced(sure: Weights, images: Path, tmp_path: Path) -> None:
    few, _ = calibrated(sure, images, num_images=3)
    assert few.calibration.num_images == 3
    (tmp_path / "spaced").mkdir()
    for name in ("a", "e", "i"):
        shutil.copy(images / f"{name}.jpg", tmp_path / "spaced")
    same, _ = calibrated(sure, tmp_path / "spaced")
    assert few.calibration.images_sha256 == same.calibration.images_sha256


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_ranges_are_those_of_the_method(method: CalibrationMethod, sure: Weights) -> None:
    found, _ = calibrated(sure, method=method)
    assert found.calibration.method == method
    assert list(found.ranges) == ["conv1", *found.histograms]
    for layer, histogram in found.histograms.items():
        assert found.ranges[layer] == histogram.amax_by(method)


def test_kept_calibration_is_used_for_the_same_graph_and_images_only(
    sure: Weights, images: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.safetensors"
    first, said = calibrated(sure, images, cache=kept)
    assert not any(line.startswith(str(kept)) for line in said)
    again, said = calibrated(sure, images, cache=kept)
    assert f"{kept}: matches this graph and these images; reusing it" in said
    assert not any(line.startswith("calibrating on") for line in said)
    assert (again.calibration, again.ranges) == (first.calibration, first.ranges)
    # Another method uses the same histograms, and another precision of the other layers the same ranges.
    whole = kept.read_bytes()
    other, said = calibrated(sure, images, cache=kept, method="minmax", rest="fp16")
    assert f"{kept}: matches this graph and these images; reusing it" in said
    assert other.ranges == calibrated(sure, images, method="minmax")[0].ranges
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("what", ["images", "graph"])
def test_stale_calibration_is_named_and_written_anew(what: str, sure: Weights, images: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.safetensors"
    if what == "graph":
        calibrated(separating_weights(sure.architecture, seed=5), images, cache=kept)
    else:
        calibrated(sure, images, cache=kept, num_images=5)
    stale = kept.read_bytes()
    found, said = calibrated(sure, images, cache=kept)
    words = {
        "graph": "made from another graph",
        "images": "made from other images, or from the same images with another decoding policy",
    }[what]
    assert f"{kept}: {words}; recalibrating and replacing it" in said
    fresh, _ = calibrated(sure, images)
    assert (found.calibration, found.ranges) == (fresh.calibration, fresh.ranges)
    assert kept.read_bytes() != stale
    _, said = calibrated(sure, images, cache=kept)
    assert f"{kept}: matches this graph and these images; reusing it" in said


def test_a_folder_that_cannot_be_listed_is_named(
    sure: Weights, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images, tmp_path / "mixed/locked")
    shutil.copy(images / "a.jpg", tmp_path / "mixed")
    refuse_listing(monkeypatch, tmp_path / "mixed/locked")
    refused(r"mixed/locked: cannot be read: Permission denied$", DataError, sure, tmp_path / "mixed")
