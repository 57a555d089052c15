"""Keras's files: written by h5py in the layouts of Keras 1, 2 and 3, read, recognised and proved."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest
from foreign_keras import (
    Made,
    config_of,
    keras_layers,
    stored_weights,
    write_archive,
    write_h5,
    write_h5_weights,
)
from foreign_torch import same
from networks import narrowed, separating_weights

from alexnet_deploy.core.errors import ParityError, WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.proof import prove
from alexnet_deploy.export.importing.readers.keras import contents
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import find_format
from alexnet_deploy.export.importing.source import Source, Unroll
from alexnet_deploy.pipeline.pretrained.importing import assumption_words, understand, weights_of

SCALE = (1 / 255, 1 / 255, 1 / 255)


@pytest.fixture(scope="module")
def weights() -> Weights:
    """A network whose fc6 is not symmetric in H, W and C, for pixels divided by 255."""
    return separating_weights(narrowed(ARCHITECTURES["single_tower"]))


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


def read(path: Path) -> Source:
    return find_format(path).reader.read(path)


def recognised(path: Path, **overrides: object) -> Recognised:
    asked = Overrides(**overrides)  # type: ignore[arg-type]
    return recognise(complete(read(path), asked), asked)


WHOLE: dict[str, Callable[[Path, Weights], None]] = {
    "Keras 1 model (HDF5)": lambda path, w: write_h5(path, keras_layers(w, 1), 1),
    "Keras 2 model (HDF5)": lambda path, w: write_h5(path, keras_layers(w, 2), 2),
    "Keras 3 model (HDF5)": lambda path, w: write_h5(path, keras_layers(w, 3), 3),
    "Keras model (.keras)": lambda path, w: write_archive(path, keras_layers(w, 3)),
    "functional Keras 1 model (HDF5)": lambda path, w: write_h5(path, keras_layers(w, 1), 1, is_functional=True),
    "functional Keras 2 model (HDF5)": lambda path, w: write_h5(path, keras_layers(w, 2), 2, is_functional=True),
    "functional Keras 3 model (HDF5)": lambda path, w: write_h5(path, keras_layers(w, 3), 3, is_functional=True),
    "functional Keras model (.keras)": lambda path, w: write_archive(path, keras_layers(w, 3), is_functional=True),
}

ALONE: dict[str, Callable[[Path, Weights], object]] = {
    "Keras 1 weights (HDF5)": lambda path, w: write_h5_weights(path, keras_layers(w, 1), 1),
    "Keras 2 weights (HDF5)": lambda path, w: write_h5_weights(path, keras_layers(w, 2), 2),
    "Keras 3 weights (HDF5)": lambda path, w: path.write_bytes(stored_weights(keras_layers(w, 3))),
    "older Keras 3 weights (HDF5)": lambda path, w: path.write_bytes(
        stored_weights(keras_layers(w, 3), store="_layer_checkpoint_dependencies")
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_is_read_bit_for_bit_and_proved(name: str, weights: Weights, tmp_path: Path) -> None:
    WHOLE[name](tmp_path / "x", weights)
    found = weights_of(understand(tmp_path / "x", Overrides()))
    assert same(found.tensors, weights.tensors)
    assert found.architecture.layers == weights.architecture.layers
    assert found.origin is not None
    assert found.origin.format == name.removeprefix("functional ")
    assert (found.origin.num_images, found.origin.max_error <= 1e-5) == (16, True)


@pytest.mark.parametrize("name", ALONE)
def test_weights_alone_are_read_with_the_architecture_that_is_asked_for(
    name: str, weights: Weights, tmp_path: Path
) -> None:
    ALONE[name](tmp_path / "x", weights)
    assert f"older {read(tmp_path / 'x').format}".endswith(name)
    found = weights_of(understand(tmp_path / "x", Overrides(architecture="single_tower")))
    assert same(found.tensors, weights.tensors)
    assert found.architecture.layers == weights.architecture.layers
    with pytest.raises(WeightsError, match=r"of shape \(11, 11, 3, 12\) does not match any architecture"):
        recognised(tmp_path / "x")


def test_weights_alone_with_too_few_layers_are_refused(weights: Weights, tmp_path: Path) -> None:
    made = [one for one in keras_layers(weights, 2) if one.name != "fc7"]
    write_h5_weights(tmp_path / "x", made, 2)
    with pytest.raises(WeightsError, match="x: has 2 fully connected layers, but single_tower has 3"):
        recognised(tmp_path / "x", architecture="single_tower")


def test_what_the_file_does_not_say_is_assumed_line_by_line(weights: Weights, tmp_path: Path) -> None:
    write_archive(tmp_path / "x", keras_layers(weights, 3))
    because = "(as Keras's image_dataset_from_directory and most of its tutorials have it)"
    assert [assumption_words(one) for one in recognised(tmp_path / "x").assumptions] == [
        f"assumed: resize warp {because}; override with --resize",
        f"assumed: channel order RGB {because}; override with --channel-order",
        f"assumed: mean 0, 0, 0 {because}; override with --mean",
        f"assumed: scale 0.00392157, 0.00392157, 0.00392157 {because}; override with --scale",
        "assumed: labels class 0 to class 3 (the file does not name its 4 classes); override with --labels",
    ]
    write_h5_weights(tmp_path / "x", keras_layers(weights, 1), 1)
    said = [assumption_words(one) for one in recognised(tmp_path / "x", architecture="single_tower").assumptions]
    assert said[0] == ("assumed: backend TensorFlow (Keras 1 does not record it; Theano's kernels are turned around)")


@pytest.mark.parametrize("version", [2, 3])
def test_a_call_of_tensorflows_lrn_and_groups_are_read(version: int, caffe: Weights, tmp_path: Path) -> None:
    made = keras_layers(caffe, version)  # type: ignore[arg-type]
    if version == 2:
        write_h5(tmp_path / "x", made, 2, is_functional=True)
    else:
        write_archive(tmp_path / "x", made, is_functional=True)
    found = weights_of(understand(tmp_path / "x", Overrides(channel_order="BGR", scale=(1.0, 1.0, 1.0))))
    assert same(found.tensors, caffe.tensors)
    assert found.architecture.layers == caffe.architecture.layers


def test_a_rescaling_layer_says_mean_and_scale(weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 3)
    made.insert(1, Made("Rescaling", "rescaling", {"scale": 1 / 127.5, "offset": -1.0}))
    made.insert(2, Made("RandomFlip", "flip", {"mode": "horizontal"}))
    write_archive(tmp_path / "x", made)
    found = recognised(tmp_path / "x")
    assert found.preprocessing.mean == (127.5, 127.5, 127.5)
    assert found.preprocessing.scale == pytest.approx((1 / 127.5,) * 3)
    assert not {"mean", "scale"} & {one.subject for one in found.assumptions}


def test_a_batch_norm_after_a_convolution_is_folded_and_zero_padding_joins_the_next(
    weights: Weights, tmp_path: Path
) -> None:
    made, rng = keras_layers(weights, 3), np.random.default_rng(0)
    place = next(number for number, one in enumerate(made) if one.name == "conv3")
    made[place].config |= {"activation": "linear", "padding": "valid"}
    gamma, beta, mean, variance = (rng.uniform(0.5, 2, len(made[place].arrays[1])).astype(np.float32) for _ in range(4))
    made[place + 1 : place + 1] = [
        Made("BatchNormalization", "bn", {"axis": -1, "epsilon": 1e-3}, [gamma, beta, mean, variance]),
        Made("ReLU", "relu", {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    ]
    made.insert(place, Made("ZeroPadding2D", "zeros", {"padding": [[1, 1], [1, 1]], "data_format": "channels_last"}))
    write_archive(tmp_path / "x", made)
    found = understand(tmp_path / "x", Overrides()).recognised
    factor = gamma / np.sqrt(variance + 1e-3)
    expected = weights.tensors["conv3.weight"] * factor[:, None, None, None]
    np.testing.assert_allclose(found.tensors["conv3.weight"], expected, rtol=1e-6)
    assert found.architecture.layers == weights.architecture.layers


def test_channels_first_is_flattened_as_keras_does(weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 2)
    size = weights.architecture.input_size
    for one in made:
        if "data_format" in one.config:
            one.config["data_format"] = "channels_first"
    made[0].config["batch_input_shape"] = [None, 3, size, size]
    write_h5(tmp_path / "x", made, 2)
    assert same(recognised(tmp_path / "x").tensors, weights.tensors)
    # A Flatten that does not know of it leaves C, H, W.
    next(one for one in made if one.kind == "Flatten").config["data_format"] = "channels_last"
    write_h5(tmp_path / "x", made, 2)
    (order,) = (layer.order for layer in read(tmp_path / "x").layers or () if isinstance(layer, Unroll))
    assert order == "CHW"


def test_same_padding_with_a_stride_is_uneven_where_keras_has_it_so(weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 2)
    made[1].config["padding"] = "same"
    made[0].config["batch_input_shape"] = [None, 224, 224, 3]
    write_h5(tmp_path / "x", made, 2)
    first = (read(tmp_path / "x").layers or ())[0]
    # 56 windows of 11, 4 apart, reach over 231 pixels: 7 more than 224.
    assert first.padding == (3, 3, 4, 4)  # type: ignore[union-attr]
    made[0].config["batch_input_shape"] = [None, None, None, 3]
    write_h5(tmp_path / "x", made, 2)
    with pytest.raises(WeightsError, match="conv1: pads to the same size, which depends on the input's size"):
        read(tmp_path / "x")


PLANTED: dict[str, tuple[Callable[[Recognised], Recognised], str]] = {
    "BGR for RGB": (
        lambda right: replace(right, preprocessing=msgspec.structs.replace(right.preprocessing, channel_order="BGR")),
        "channels in RGB order",
    ),
    "fc6 as it lies in the file": (
        lambda right: replace(right, tensors={**right.tensors, "fc6.weight": _as_it_lies(right)}),
        "fc6.weight read in H, W, C order",
    ),
}


def _as_it_lies(right: Recognised) -> np.ndarray:
    name = next(name for name in right.source.tensors if "fc6" in name and right.source.tensors[name].ndim == 2)
    return np.ascontiguousarray(right.source.tensors[name].T)


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_fails_by_name(planted: str, weights: Weights, tmp_path: Path) -> None:
    write_h5(tmp_path / "x", keras_layers(weights, 2), 2)
    plant, name = PLANTED[planted]
    right = recognised(tmp_path / "x", scale=(1 / 58.0, 1 / 58.0, 1 / 58.0))
    referee = find_format(tmp_path / "x").referee
    assert prove(right, referee).holds
    with pytest.raises(ParityError, match=f"; they agree with {name}$"):
        prove(plant(right), referee)


def test_a_crop_off_by_one_and_alpha_of_tensorflow_fail_by_name(caffe: Weights, tmp_path: Path) -> None:
    write_h5(tmp_path / "x", keras_layers(caffe, 2), 2, is_functional=True)
    right = recognised(tmp_path / "x", channel_order="BGR", mean=(123.0, 117.0, 104.0), scale=(1.0, 1.0, 1.0))
    referee = find_format(tmp_path / "x").referee
    with pytest.raises(ParityError, match=r"a crop at 14 for 15$"):
        prove(right, referee, view=View(top=15, left=15, mirrored=False))
    layers = tuple(
        msgspec.structs.replace(layer, alpha=layer.alpha / 5) if hasattr(layer, "alpha") else layer
        for layer in right.architecture.layers
    )
    wrong = replace(right, architecture=msgspec.structs.replace(right.architecture, layers=layers))
    with pytest.raises(ParityError, match=r"LRN's alpha multiplied by its window$"):
        prove(wrong, referee)


Change = dict[str, object]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1", {"dilation_rate": [2, 2]}, "conv1: a dilated convolution is not supported"),
        ("conv1", {"strides": [4, 2]}, "conv1: its stride differs in height and width"),
        ("conv1", {"padding": "causal"}, "conv1: its padding 'causal' is not supported"),
        ("conv1", {"activation": "selu"}, "conv1: its activation 'selu' is not supported"),
        ("conv1", {"filters": 7}, r"conv1: has a kernel of shape \(11, 11, 3, 12\), where 7 square filters of 11"),
        ("conv1", {"use_bias": False}, "conv1: has 2 arrays in the file, where 1 are needed"),
        ("conv2", {"data_format": "channels_first"}, "conv2: has its channels at another place"),
        ("pool1", {"pool_size": [3, 2]}, "pool1: its window differs in height and width"),
        ("drop6", {"rate": "half"}, "drop6: its rate is 'half', where a number is needed"),
        ("input_1", {"batch_shape": [None, 227, 227, 1]}, "input_1: takes an input of 227 x 227 x 1; a square"),
    ],
)
def test_a_layer_that_is_not_known_is_named(
    name: str, change: Change, message: str, weights: Weights, tmp_path: Path
) -> None:
    made = keras_layers(weights, 3)
    next(one for one in made if one.name == name).config.update(change)
    write_archive(tmp_path / "x", made)
    with pytest.raises(WeightsError, match=f"x: {message}"):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Made("Lambda", "l", {"function": ["4wEAAA==", None, None]}), "l: is a Lambda layer, which is code"),
        (Made("LRN2D", "l", {}, module="my_layers"), "l: is a LRN2D of a program of its own, whose code is not"),
        (Made("Sequential", "l", {"layers": []}), "l: is a model within the model"),
        (Made("SpatialDropout2D", "l", {}), "l: a layer of type SpatialDropout2D is not supported"),
        (Made("Rescaling", "l", {"scale": 2.0, "offset": 0.0}), "l: a Rescaling that is not the first layer"),
        (Made("LeakyReLU", "l", {}), "l: a layer of type LeakyReLU is not supported"),
        (Made("ZeroPadding2D", "l", {"padding": 1}), "pool1: follows ZeroPadding2D"),
        (Made("TFOpLambda", "l", {"function": "math.exp"}), "l: a layer of type TFOpLambda is not supported"),
    ],
)
def test_code_and_unknown_layers_are_refused_by_name(one: Made, message: str, weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 3)
    made.insert(2, one)
    write_archive(tmp_path / "x", made)
    with pytest.raises(WeightsError, match=f"x: {message}"):
        read(tmp_path / "x")


def test_a_network_that_branches_is_refused(weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 2)
    config = config_of(made, 2, is_functional=True)
    layers = config["config"]["layers"]  # type: ignore[index]
    layers[3]["inbound_nodes"] = layers[2]["inbound_nodes"]
    write_h5(tmp_path / "x", made, 2, config=config)
    with pytest.raises(WeightsError, match="x: conv2: is the second layer after conv1; only a chain"):
        read(tmp_path / "x")
    layers[3]["inbound_nodes"] = [[["pool1", 0, 0, {}], ["conv1", 0, 0, {}]]]
    write_h5(tmp_path / "x", made, 2, config=config)
    with pytest.raises(WeightsError, match="x: conv2: takes 2 inputs; only a chain"):
        read(tmp_path / "x")
    config = {"class_name": "MyModel", "config": {}}
    write_h5(tmp_path / "x", made, 2, config=config)
    with pytest.raises(WeightsError, match="x: holds a MyModel; only Sequential and Functional models"):
        read(tmp_path / "x")


def test_weights_that_stand_at_another_layers_place_are_refused(weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 3)
    three, four = (next(one for one in made if one.name == name) for name in ("conv3", "conv4"))
    three.stored, four.stored = "conv2d_3", "conv2d_2"
    write_archive(tmp_path / "x", made)
    with pytest.raises(WeightsError, match="x: conv3: its place in the weights is that of conv4"):
        read(tmp_path / "x")


def test_theano_and_keras_1_with_channels_first_are_refused(weights: Weights, tmp_path: Path) -> None:
    write_h5(tmp_path / "x", keras_layers(weights, 2), 2, backend="theano")
    with pytest.raises(WeightsError, match="x: was trained with Theano, which turns its kernels around; load it"):
        read(tmp_path / "x")
    made = keras_layers(weights, 1)
    for one in made:
        if "dim_ordering" in one.config:
            one.config["dim_ordering"] = "th"
    made[0].config["batch_input_shape"] = [None, 3, 227, 227]
    write_h5(tmp_path / "x", made, 1)
    with pytest.raises(WeightsError, match="x: conv1: is of Keras 1 with its channels first"):
        read(tmp_path / "x")


def test_names_that_keras_splits_over_several_attributes_are_joined(weights: Weights, tmp_path: Path) -> None:
    write_h5_weights(tmp_path / "x", keras_layers(weights, 2), 2)
    with h5py.File(tmp_path / "x", "r+") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:5], names[5:]
    found = recognised(tmp_path / "x", architecture="single_tower")
    assert same(found.tensors, weights.tensors)


def test_without_h5py_the_command_that_installs_it_is_said(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "x", keras_layers(weights, 3))
    monkeypatch.setattr(contents, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"x: is an HDF5 file, and h5py, .* is not installed; run `pip install .*\["):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("kill -SEGV $$", "x: is a damaged HDF5 file: the HDF5 library ended by signal 11"),
        ("echo no room >&2; exit 1", "x: cannot be read, because the process that lists HDF5 files failed: no room"),
        ("echo nonsense", "x: is a damaged HDF5 file: its listing cannot be read"),
    ],
)
def test_a_process_that_fails_is_reported(
    program: str, message: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_h5(tmp_path / "x", keras_layers(weights, 2), 2)
    (tmp_path / "program").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setattr(contents.sys, "executable", str(tmp_path / "program"))
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "x")


def test_float64_is_read_and_half_precision_is_refused(weights: Weights, tmp_path: Path) -> None:
    made = keras_layers(weights, 2)
    for one in made:
        one.arrays = [values.astype(np.float64) for values in one.arrays]
    write_h5(tmp_path / "x", made, 2)
    assert same(recognised(tmp_path / "x").tensors, weights.tensors)
    made[1].arrays = [values.astype(np.float16) for values in made[1].arrays]
    write_h5(tmp_path / "x", made, 2)
    with pytest.raises(WeightsError, match="kernel:0: holds values of type float16, where float32 is needed"):
        read(tmp_path / "x")


def test_weights_of_the_optimizer_are_left_alone(weights: Weights, tmp_path: Path) -> None:
    write_h5(tmp_path / "x", keras_layers(weights, 2), 2)
    with h5py.File(tmp_path / "x", "r+") as file:
        file["optimizer_weights"] = h5py.ExternalLink("/etc/passwd", "/")
    assert same(recognised(tmp_path / "x").tensors, weights.tensors)
