"""TensorFlow's weights in NumPy's format, written by NumPy and as Python 2 wrote them."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_arrays import npy_layers, python_2, write_npy
from foreign_torch import same
from networks import narrowed, separating_weights

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.readers.array_pickle import PickleError, read_pickle
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import find_format
from alexnet_deploy.pipeline.pretrained.importing import assumption_words, understand, weights_of


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


def recognised(path: Path, **overrides: object) -> Recognised:
    asked = Overrides(**overrides)  # type: ignore[arg-type]
    return recognise(complete(find_format(path).reader.read(path), asked), asked)


WAYS: dict[str, Callable[[Path, dict[str, list[np.ndarray]]], object]] = {
    "by numpy": write_npy,
    "by Python 2": lambda path, layers: path.write_bytes(python_2(layers)),
    "with keys of bytes": lambda path, layers: write_npy(path, {key.encode(): both for key, both in layers.items()}),
    "as caffe-tensorflow": lambda path, layers: write_npy(
        path, {key: dict(zip(("weights", "biases"), both, strict=True)) for key, both in layers.items()}
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_read_bit_for_bit_in_our_order(way: str, caffe: Weights, tmp_path: Path) -> None:
    WAYS[way](tmp_path / "x", npy_layers(caffe))
    found = recognised(tmp_path / "x")
    assert same(found.tensors, caffe.tensors)
    assert found.architecture.layers == caffe.architecture.layers
    assert found.preprocessing == PUBLISHED_PREPROCESSING["caffe"]


def test_the_import_is_proved_and_says_what_it_assumes(caffe: Weights, tmp_path: Path) -> None:
    write_npy(tmp_path / "x", npy_layers(caffe))
    understood = understand(tmp_path / "x", Overrides())
    origin = weights_of(understood).origin
    assert origin is not None
    assert (origin.format, origin.num_images) == ("TensorFlow weights in NumPy's format", 16)
    assert origin.max_error <= 1e-5
    because = "as in bvlc_alexnet.npy, which was converted from Caffe's"
    named = "whose tensors have these names; the file holds no layers"
    lines = [assumption_words(one) for one in understood.recognised.assumptions]
    assert lines[:4] == [
        f"assumed: architecture caffe ({because}, {named}); override with --arch",
        f"assumed: LRN size 5, alpha 2e-05 not divided by it, beta 0.75, k 1 ({because}); override with --lrn",
        f"assumed: fc6's order H, W, C ({because})",
        f"assumed: input size 227 ({because})",
    ]


def test_another_architecture_can_be_asked_for(caffe: Weights, tmp_path: Path) -> None:
    write_npy(tmp_path / "x", npy_layers(caffe))
    found = recognised(tmp_path / "x", architecture="caffenet")
    assert found.architecture.layers == narrowed(ARCHITECTURES["caffenet"]).layers
    assert same(found.tensors, caffe.tensors)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 256, 256), np.float32), r"x: holds one array \(3 x 256 x 256 of float32\), expected the layers"),
        ({"conv1": [1, 2]}, "x: 'conv1' is not a layer with weights and biases"),
        ({"conv1": np.zeros(3)}, "x: 'conv1' is not a layer with weights and biases"),
        ({"conv1": [np.zeros(3, np.int64)]}, "x: holds an array of type '<i8', expected floats"),
        ({"conv1": {"kernel": np.zeros(3)}}, "x: 'conv1' is not a layer with weights and biases"),
        (["conv1"], "x: holds no dict of layers"),
        ({1: []}, "x: has a int, expected a name"),
        ({"a": 0.5}, "x: has an instruction that no array needs: b'G'"),
        ({"a": {1, 2}}, "x: has an instruction that no array needs"),
    ],
)
def test_what_is_no_network_is_refused_by_name(value: object, message: str, tmp_path: Path) -> None:
    write_npy(tmp_path / "x", np.array(value, object) if isinstance(value, list) else value)
    with pytest.raises(WeightsError, match=message):
        recognised(tmp_path / "x")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_an_array_is_read_as_numpy_reads_it_at_every_protocol(protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(3, 4, 5)).astype(np.float32),
        np.asfortranarray(rng.normal(size=(30, 40))),
        rng.normal(size=7).astype(">f4"),
        np.zeros((0, 2), np.float32),
    ]
    found = read_pickle(memoryview(pickle.dumps({"a": arrays, "again": arrays}, protocol=protocol)))
    assert isinstance(found, dict)
    assert found["again"] is found["a"]
    for array, made in zip(arrays, found["a"], strict=True):  # type: ignore[arg-type]
        assert np.array_equal(made.values(), array.astype(np.float32))  # type: ignore[union-attr]


def test_a_pickle_cut_anywhere_is_refused() -> None:
    data = pickle.dumps({"a": np.arange(300.0)}, protocol=2)
    for length in range(len(data)):
        with pytest.raises(PickleError):
            read_pickle(memoryview(data)[:length])


def test_nested_tuples_as_keys_take_no_time() -> None:
    # A plain unpickler hashes each tuple once for each time that it stands in another: 2 to the power of 60 times.
    nested = b")" + b"q\x00" + b"h\x00\x86q\x00" * 60
    with pytest.raises(PickleError, match="has a tuple, expected a name"):
        read_pickle(memoryview(b"\x80\x02}" + nested + b"Ns."))
