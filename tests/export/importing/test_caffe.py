"""Caffe's models: read, recognised by the order of their layers, and held against OpenCV's own reader of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_caffe import by_opencv, prototxt, write_caffe
from foreign_torch import same
from networks import narrowed, separating_weights

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.labels import imagenet_labels
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.proof import proof_images, prove, source_inputs
from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
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
    assert (assumed.reason, assumed.option) == ("the file does not name its 1,000 classes", "--labels")


def training_network(layers: list[Any]) -> None:
    """What a snapshot of Caffe has, beside the network."""
    del layers[-1]
    split = messages.LayerParameter(name="split", type="Split", bottom=["fc8"], top=["fc8_0", "fc8_1"])
    accuracy = messages.LayerParameter(name="acc", type="Accuracy", bottom=["fc8_0", "label"], top=["acc"])
    loss = messages.LayerParameter(name="loss", type="SoftmaxWithLoss", bottom=["fc8_1", "label"], top=["loss"])
    layers.insert(0, messages.LayerParameter(name="data", type="Data", top=["data", "label"]))
    layers.extend((split, accuracy, loss))


def without_dropout(layers: list[Any]) -> None:
    layers[:] = [layer for layer in layers if layer.type != "Dropout"]


@pytest.mark.parametrize("change", [training_network, without_dropout])
def test_layers_that_change_no_answer_are_left_out(change: Callable[[list[Any]], None], tmp_path: Path) -> None:
    path, weights = tmp_path / "x.caffemodel", narrow("caffe")
    write_caffe(path, weights, 2, change=change)
    recognised, found = imported(path)
    assert same(recognised.tensors, weights.tensors)
    assert prove(recognised, found.referee).holds


@pytest.mark.parametrize(
    ("kind", "blob", "message"),
    [
        ("Python", "relu3", "odd: a layer of type Python is not supported"),
        ("Python", "data", "odd: a layer of type Python is not supported"),
        ("DummyData", "relu3", "odd: a layer of type DummyData is not supported"),
        ("Accuracy", "relu3", "odd: a layer of type Accuracy is not supported"),
        ("Power", "relu3", "odd: a layer of type Power is not supported"),
    ],
)
def test_a_layer_that_rewrites_what_the_network_reads_is_refused(
    kind: str, blob: str, message: str, tmp_path: Path
) -> None:
    def insert(layers: list[Any]) -> None:
        after = 0 if blob == "data" else next(n for n, layer in enumerate(layers) if layer.name == blob) + 1
        # A ReLU works in place.
        blob_now = layers[after].bottom[0]
        layers.insert(after, messages.LayerParameter(name="odd", type=kind, bottom=[blob_now], top=[blob_now]))

    write_caffe(tmp_path / "x.caffemodel", narrow("caffe"), 2, change=insert)
    assert refused(tmp_path / "x.caffemodel").endswith(message)


@pytest.mark.parametrize("version", [1, 2])
def test_weights_that_are_not_what_the_model_says_of_them_are_refused(version: int, tmp_path: Path) -> None:
    def said(change: Callable[[Any], None], name: str) -> str:
        def edit(layers: list[Any]) -> None:
            change(next(layer for layer in layers if layer.name == name))

        write_caffe(tmp_path / "x.caffemodel", narrow("caffe"), version, change=edit)
        return refused(tmp_path / "x.caffemodel").removeprefix(f"{tmp_path / 'x.caffemodel'}: ")

    def kernel(layer: Any) -> None:
        layer.convolution_param.kernel_size[:] = [5]

    def outputs(layer: Any) -> None:
        layer.inner_product_param.num_output = 5

    def no_biases(layer: Any) -> None:
        del layer.blobs[1:]

    def no_weights(layer: Any) -> None:
        del layer.blobs[:]

    def renamed(layer: Any) -> None:
        layer.name = "conv3"

    assert said(kernel, "conv3").startswith("conv3: has weights of shape (48, 32, 3, 3), which is not what its list of")
    assert said(outputs, "fc6").startswith("fc6: has weights of shape (64, 1152), which is not what its list of layers")
    assert said(no_biases, "conv5") == "conv5: has biases in its list of layers, but none in the model"
    assert said(no_weights, "conv5") == "conv5: is in its list of layers, but the model has no weights for it"
    assert said(renamed, "conv5") == "has weights for two layers called conv3"
