"""MatConvNet's networks: written by scipy as MatConvNet's own importer does, read, recognised and proved."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from foreign_arrays import matconvnet_layers, write_matconvnet
from foreign_torch import same
from networks import LABELS, narrowed, separating_weights

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.mat_file import read_mat
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import find_format
from alexnet_deploy.pipeline.pretrained.importing import assumption_words, understand, weights_of

MEAN = np.array([[[124.0, 117.0, 104.0]]], np.float32)


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


def recognised(path: Path, **overrides: object) -> Recognised:
    asked = Overrides(**overrides)  # type: ignore[arg-type]
    return recognise(complete(find_format(path).reader.read(path), asked), asked)


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("member", ["caffe", "caffenet"])
def test_a_network_is_read_bit_for_bit_and_proved(
    member: str, is_old: bool, is_compressed: bool, tmp_path: Path
) -> None:
    weights, path = separating_weights(narrowed(ARCHITECTURES[member])), tmp_path / "x"
    write_matconvnet(path, weights, is_old=is_old, is_compressed=is_compressed, average=MEAN)
    found = weights_of(understand(path, Overrides()))
    assert same(found.tensors, weights.tensors)
    assert found.architecture.layers == weights.architecture.layers
    assert (found.preprocessing.channel_order, found.preprocessing.resize) == ("RGB", "warp")
    assert found.preprocessing.mean == (124.0, 117.0, 104.0)
    assert found.origin is not None
    assert found.origin.format == "MatConvNet network (SimpleNN)"
    assert (found.origin.num_images, found.origin.max_error <= 1e-5) == (16, True)


def test_what_the_file_does_not_say_is_assumed_line_by_line(caffe: Weights, tmp_path: Path) -> None:
    write_matconvnet(tmp_path / "x", caffe, average=MEAN)
    because = "(as MatConvNet's importer of Caffe's models writes it)"
    assert [assumption_words(one) for one in recognised(tmp_path / "x").assumptions] == [
        f"assumed: channel order RGB {because}; override with --channel-order",
        f"assumed: scale 1, 1, 1 {because}; override with --scale",
        "assumed: labels class 0 to class 3 (the file does not name its 4 classes); override with --labels",
    ]


def test_a_mean_image_becomes_three_numbers_and_the_difference_is_said(caffe: Weights, tmp_path: Path) -> None:
    image = np.tile(MEAN, (227, 227, 1))
    image[10, 20, 2] += 8
    write_matconvnet(tmp_path / "x", caffe, average=image)
    found = recognised(tmp_path / "x")
    assert found.preprocessing.mean == pytest.approx((124.0, 117.0, 104.0), abs=1e-3)
    (said,) = (one for one in found.assumptions if one.subject == "mean")
    assert said.reason == "the means of the file's image, which fits one view alone; its pixels differ by up to 8"
    asked = recognised(tmp_path / "x", mean=(1.0, 2.0, 3.0))
    assert asked.preprocessing.mean == (1.0, 2.0, 3.0)
    assert "mean" not in {one.subject for one in asked.assumptions}


def test_class_names_that_two_classes_share_get_their_wnids(caffe: Weights, tmp_path: Path) -> None:
    names = {"description": ["crane", "a ship", "crane", "b"], "name": ["n02012849", "n1", "n03126707", "n2"]}
    write_matconvnet(tmp_path / "x", caffe, classes=names)
    assert recognised(tmp_path / "x").labels == ("crane (n02012849)", "a ship", "crane (n03126707)", "b")
    write_matconvnet(tmp_path / "x", caffe, classes={"description": list(LABELS)})
    assert recognised(tmp_path / "x").labels == LABELS


def test_a_batch_norm_is_folded_into_the_convolution_before_it(caffe: Weights, tmp_path: Path) -> None:
    rng, layers = np.random.default_rng(0), matconvnet_layers(caffe)
    cell, width = np.empty((1, 3), object), caffe.architecture.tensor_shapes()["conv3.weight"][0]
    cell[0, 0], cell[0, 1] = (rng.uniform(0.5, 2, (width, 1)).astype(np.float32) for _ in range(2))
    cell[0, 2] = rng.uniform(0.5, 2, (width, 2)).astype(np.float32)
    place = next(number for number, layer in enumerate(layers) if layer["name"] == "conv3")
    layers.insert(place + 1, {"name": "bn3", "type": "bnorm", "weights": cell})
    write_matconvnet(tmp_path / "x", caffe, layers=layers)
    found = recognised(tmp_path / "x")
    factor = cell[0, 0][:, 0] / cell[0, 2][:, 1]
    np.testing.assert_allclose(
        found.tensors["conv3.weight"], caffe.tensors["conv3.weight"] * factor[:, None, None, None], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"type": "convt"}, "conv1: a layer of type 'convt' is not supported"),
        (0, {"pad": np.zeros((1, 3))}, "conv1: its padding has 3 numbers"),
        (0, {"stride": np.array([[4.0, 2.0]])}, "conv1: its stride differs in height and width"),
        (0, {"weights": np.zeros(3)}, "conv1: has no filters of height, width, inputs and outputs"),
        (1, {"leak": 0.1}, "relu1: a leaky ReLU is not supported"),
        (2, {"param": np.zeros((1, 2))}, "norm1: its param has 2 numbers"),
        (3, {"method": "median"}, "pool1: pooling by 'median' is not supported"),
        (4, {"dilate": 2.0}, "conv2: a dilated convolution is not supported"),
    ],
)
def test_a_layer_that_is_not_known_is_named(
    number: int, change: dict[str, object], message: str, caffe: Weights, tmp_path: Path
) -> None:
    layers = matconvnet_layers(caffe)
    layers[number].update(change)
    write_matconvnet(tmp_path / "x", caffe, layers=layers)
    with pytest.raises(WeightsError, match=f"x: {message}"):
        recognised(tmp_path / "x")


def test_networks_that_are_no_chain_and_files_of_hdf5_are_refused(caffe: Weights, tmp_path: Path) -> None:
    dag = np.array([{"name": "conv1", "type": "dagnn.Conv", "block": {"pad": 0}}])
    scipy.io.savemat(tmp_path / "x", {"layers": dag, "params": np.array([1.0])}, appendmat=False)
    with pytest.raises(WeightsError, match="x: is a DagNN network; only SimpleNN networks"):
        recognised(tmp_path / "x")
    scipy.io.savemat(tmp_path / "x", {"a": np.zeros(3)}, appendmat=False)
    with pytest.raises(WeightsError, match="x: holds no network of MatConvNet's"):
        recognised(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(
        WeightsError, match=r"x: is a MATLAB file of version 7\.3; save it in MATLAB with '-v7' or '-v6'"
    ):
        recognised(tmp_path / "x")


def test_scipy_reads_the_same_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = {
        "a": rng.normal(size=(3, 4, 5)),
        "b": rng.normal(size=(2, 3)).astype(np.float32),
        "c": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "d": "text",
        "e": np.array([[True, False]]),
    }
    scipy.io.savemat(tmp_path / "x.mat", content, do_compression=True)
    with (tmp_path / "x.mat").open("rb") as file:
        ours = read_mat(file, (tmp_path / "x.mat").stat().st_size, 1 << 20)
    theirs = scipy.io.loadmat(tmp_path / "x.mat")
    assert ours["d"] == "text"
    for name in ("a", "b", "c", "e"):
        assert np.array_equal(ours[name], theirs[name]), name
