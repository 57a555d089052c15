"""Caffe's models: read, recognised by the order of their layers, and held against OpenCV's own reader of them."""

from pathlib import Path

import numpy as np
import pytest
from foreign_caffe import by_opencv, prototxt, write_caffe
from networks import narrowed, separating_weights

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.labels import imagenet_labels
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.proof import proof_images, prove, source_inputs
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import Format, find_format


def narrow(member: str) -> Weights:
    return separating_weights(narrowed(ARCHITECTURES[member]))


def imported(path: Path, overrides: Overrides | None = None) -> tuple[Recognised, Format]:
    found = find_format(path)
    wanted = overrides or Overrides()
    return recognise(complete(found.reader.read(path), wanted), wanted), found


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        imported(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("member", ["caffe", "caffenet"])
def test_a_model_is_told_by_the_order_of_its_layers(member: str, version: int, tmp_path: Path) -> None:
    weights, path = narrow(member), tmp_path / "x.bin"
    write_caffe(path, weights, version)
    recognised, found = imported(path)
    assert recognised.source.format == f"Caffe model (V{version} layers)"
    assert [type(layer) for layer in recognised.architecture.layers if layer.name != "flatten"] == [
        type(layer) for layer in weights.architecture.layers if layer.name != "flatten"
    ]
    assert recognised.architecture.name.startswith(member)
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(recognised.tensors[name], tensor)
    assert (recognised.preprocessing.channel_order, recognised.preprocessing.resize) == ("BGR", "warp")
    assert {assumption.subject for assumption in recognised.assumptions} >= {"channel order", "mean", "resize"}
    assert prove(recognised, found.referee).holds


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("member", ["caffe", "caffenet"])
def test_opencv_says_what_the_referee_says(member: str, version: int, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="opencv-python-headless<5 is not installed")
    weights, path, text = narrow(member), tmp_path / "x.caffemodel", tmp_path / "x.prototxt"
    write_caffe(path, weights, version)
    text.write_text(prototxt(weights))
    recognised, found = imported(path)
    inputs = source_inputs(proof_images(), recognised.source.preprocessing)
    assert len(inputs) == 16
    theirs = by_opencv(path, text, inputs)
    assert np.abs(theirs - found.referee(recognised.source, inputs)).max() <= 1e-5


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    write_caffe(path, narrow("caffe"), 2)
    data = path.read_bytes()
    for length in (40, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert "Caffe model, or is damaged" in refused(path) or "no layer" in refused(path)


def test_a_model_of_a_thousand_classes_gets_the_names_of_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    write_caffe(path, separating_weights(narrowed(ARCHITECTURES["caffe"]).with_num_classes(1000)), 1)
    recognised, _ = imported(path)
    assert recognised.labels == imagenet_labels()
    (assumed,) = [found for found in recognised.assumptions if found.subject == "labels"]
    assert (assumed.reason, assumed.option) == ("it has 1,000 classes and does not name them", "--labels")
