"""MatConvNet's layers, one by one: settings, their defaults, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.export.importing.readers.matconvnet import read, recognises
from alexnet_deploy.export.importing.source import (
    Activate,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Scale,
    Softmax,
    Source,
    SourceLayer,
)

Settings = dict[str, object]

FILTERS = np.arange(3 * 3 * 3 * 8, dtype=np.float32).reshape(3, 3, 3, 8)
BIASES = np.arange(8, dtype=np.float32).reshape(1, 8)


def cell(*values: object) -> np.ndarray:
    made = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        made[0, place] = value
    return made


def conv(**changes: object) -> Settings:
    return {"type": "conv", "name": "conv", "weights": cell(FILTERS, BIASES)} | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x"


def source(path: Path, *layers: Settings, **more: object) -> Source:
    scipy.io.savemat(path, {"layers": cell(*layers), **more}, appendmat=False)
    return read(path)


def only(path: Path, layer: Settings) -> SourceLayer:
    (found,) = source(path, layer).layers or ()
    return found


def refused(path: Path, *layers: Settings) -> str:
    with pytest.raises(WeightsError) as caught:
        source(path, *layers)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_convolution_is_read_with_its_defaults(path: Path) -> None:
    plain = Convolve(name="conv", weight="conv.filters", bias="conv.biases", layout="HWIO")
    assert only(path, conv()) == plain
    assert only(path, conv(stride=1.0, pad=0.0, dilate=1.0)) == plain
    assert only(path, conv(stride=np.zeros(0), pad=np.zeros(0))) == plain
    found = source(path, conv())
    assert np.array_equal(found.tensors["conv.filters"], FILTERS)
    assert np.array_equal(found.tensors["conv.biases"], BIASES[0])
    old = {"type": "conv", "name": "conv", "filters": FILTERS, "biases": BIASES}
    assert only(path, old) == plain
    settings = conv(stride=np.array([2.0, 2.0]), pad=np.array([1.0, 2.0, 3.0, 4.0]))
    # Top, bottom, left, right in the file.
    assert only(path, settings) == Convolve(
        name="conv", weight="conv.filters", bias="conv.biases", layout="HWIO", stride=2, padding=(1, 3, 2, 4)
    )
    assert only(path, conv(pad=2.0)).padding == (2, 2, 2, 2)  # type: ignore[union-attr]


def test_a_convolution_without_biases_or_with_integers_is_read(path: Path) -> None:
    for weights in (cell(FILTERS), cell(FILTERS, np.zeros((0, 0)))):
        found = source(path, conv(weights=weights))
        assert (found.layers or ())[0].bias is None  # type: ignore[union-attr]
        assert list(found.tensors) == ["conv.filters"]
    stored = source(path, conv(weights=cell(FILTERS, np.zeros((1, 8), np.uint8)))).tensors["conv.biases"]
    assert (stored.dtype, stored.tolist()) == (np.float32, [0.0] * 8)


def test_groups_follow_from_the_channels(path: Path) -> None:
    one = conv(weights=cell(FILTERS[:, :, :1], BIASES))
    two = conv(name="two", weights=cell(np.zeros((3, 3, 4, 6), np.float32)))
    three = conv(name="three", weights=cell(np.zeros((3, 3, 6, 2), np.float32)))
    found = source(path, one, two, three).layers or ()
    assert [layer.groups for layer in found] == [3, 2, 1]  # type: ignore[union-attr]
    wrong = conv(name="two", weights=cell(np.zeros((3, 3, 5, 6), np.float32)))
    assert refused(path, conv(), wrong) == "two: expects 5 channels, but gets 8"
    wrong = conv(name="two", weights=cell(np.zeros((3, 3, 9, 6), np.float32)))
    assert refused(path, conv(), wrong) == "two: expects 9 channels, but gets 8"


def test_dimensions_of_1_at_the_end_are_put_back(path: Path) -> None:
    found = source(path, conv(weights=cell(np.zeros((3, 3, 3), np.float32)))).tensors["conv.filters"]
    assert found.shape == (3, 3, 3, 1)
    flat = source(path, conv(weights=cell(np.zeros((1, 1, 3, 2), np.float32)))).tensors["conv.filters"]
    assert flat.shape == (1, 1, 3, 2)
    bare = source(path, conv(weights=cell(np.zeros((3, 3), np.float32))))
    assert bare.tensors["conv.filters"].shape == (3, 3, 1, 1)
    assert (bare.layers or ())[0].groups == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": cell(np.zeros((3, 3, 3, 8, 2), np.float32))}, "has no filters of height, width, inputs and outp"),
        ({"weights": cell("text", BIASES)}, "has no filters of height, width, inputs and outputs"),
        ({"weights": cell(np.zeros((3, 3, 0, 8), np.float32))}, "has no filters of height, width, inputs and outputs"),
        ({"stride": 0.0}, "its stride differs in height and width, or is 0"),
        ({"stride": 1.5}, "its stride is 1.5, expected an integer"),
        ({"stride": -1.0}, "its stride is -1, expected an integer"),
        ({"stride": 65537.0}, "its stride is 65537, expected an integer"),
        ({"pad": np.zeros((1, 2))}, "its padding has 2 numbers, expected 1 or 4"),
        ({"pad": np.zeros((1, 5))}, "its pad has 5 numbers"),
        ({"pad": -1.0}, "its padding is -1, expected an integer"),
        ({"dilate": np.array([1.0, 2.0])}, "a dilated convolution is not supported"),
        ({"type": "relu", "leak": 0.1}, "a leaky ReLU is not supported"),
        ({"type": "normalize", "param": np.zeros((1, 3))}, "its param has 3 numbers"),
        ({"type": "normalize", "param": np.array([5.5, 1, 1, 1])}, "its window is 5.5, expected an integer"),
        ({"type": "dropout", "rate": np.zeros((1, 2))}, "its rate has 2 numbers"),
        ({"type": "pool", "pool": np.array([3.0, 2.0])}, "its pool differs in height and width, or is 0"),
        ({"type": "pool", "method": "median"}, "pooling by 'median' is not supported"),
        ({"type": "bnorm", "weights": cell(BIASES, BIASES)}, "has no multipliers, biases and moments"),
        ({"type": "bnorm", "weights": cell(BIASES, BIASES, BIASES)}, "has no multipliers, biases and moments"),
        ({"type": "sigmoid"}, "a layer of type 'sigmoid' is not supported"),
    ],
)
def test_another_layer_is_refused(changes: Settings, words: str, path: Path) -> None:
    assert refused(path, conv(**changes)).startswith(f"conv: {words}")


def test_weights_as_integers_are_few(path: Path) -> None:
    many = np.zeros((1, 1, 3, 1 << 18), np.uint8)
    found = source(path, conv(weights=cell(many, np.zeros((1, 1 << 18), np.uint8)))).tensors["conv.filters"]
    assert found.dtype == np.float32
    more = np.zeros((1, 1, 3, (1 << 20) // 3 + 1), np.uint8)
    words = "conv: has 1,048,578 weights stored as integers, expected floats"
    assert refused(path, conv(weights=cell(more))) == words
    assert source(path, conv(weights=cell(more.astype(np.float32)))).layers


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"type": "relu"}, Activate(name="one", function="relu")),
        ({"type": "relu", "leak": 0.0}, Activate(name="one", function="relu")),
        ({"type": "softmax"}, Softmax(name="one")),
        ({"type": "softmaxloss"}, Softmax(name="one")),
        ({"type": "dropout"}, Drop(name="one", probability=0.5)),
        ({"type": "dropout", "rate": 0.25}, Drop(name="one", probability=0.25)),
        ({"type": "pool"}, Pool(name="one", function="max", kernel=1, stride=1)),
        (
            {"type": "pool", "pool": 3.0, "stride": 2.0, "method": "avg", "pad": np.array([0.0, 1.0, 2.0, 3.0])},
            Pool(name="one", function="average", kernel=3, stride=2, padding=(0, 2, 1, 3)),
        ),
        ({"type": "pool", "pool": 3.0, "method": "max"}, Pool(name="one", function="max", kernel=3, stride=1)),
        (
            {"type": "normalize"},
            Normalise(name="one", size=5, k=1.0, alpha=1e-4 / 5, alpha_is_divided=False, beta=0.75),
        ),
        (
            {"type": "lrn", "param": np.array([3.0, 2.0, 0.5, 0.25])},
            Normalise(name="one", size=3, k=2.0, alpha=0.5, alpha_is_divided=False, beta=0.25),
        ),
    ],
)
def test_a_layer_without_weights_is_read_with_its_defaults(layer: Settings, expected: SourceLayer, path: Path) -> None:
    assert only(path, {"name": "one", **layer}) == expected


def test_a_batch_norm_is_read(path: Path) -> None:
    scale, shift = np.ones((8, 1), np.float32), np.full((8, 1), 2, np.float32)
    moments = np.stack([np.full(8, 3), np.full(8, 4)], axis=1).astype(np.float32)
    found = source(path, {"type": "bnorm", "name": "bn", "weights": cell(scale, shift, moments)})
    assert found.layers == (
        Scale(
            name="bn", mean="bn.mean", variance="bn.variance", scale="bn.multipliers", shift="bn.biases", epsilon=0.0
        ),
    )
    values = {"bn.multipliers": 1, "bn.biases": 2, "bn.mean": 3, "bn.variance": 16}
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        name: [value] * 8 for name, value in values.items()
    }


def test_names_are_unique_and_loss_is_no_layer(path: Path) -> None:
    bare: Settings = {"type": "relu"}
    named: Settings = {"type": "relu", "name": "relu"}
    found = source(path, bare, named, named, {"type": "loss", "name": "loss"}).layers or ()
    assert [layer.name for layer in found] == ["layer 1", "relu", "relu (3)"]


def test_a_struct_for_each_layer_is_read(path: Path) -> None:
    structs = np.array([("relu", "a"), ("relu", "b")], [("type", object), ("name", object)])
    scipy.io.savemat(path, {"layers": structs}, appendmat=False)
    assert read(path).layers == (Activate(name="a", function="relu"), Activate(name="b", function="relu"))


def test_a_network_within_net_is_read(path: Path) -> None:
    scipy.io.savemat(path, {"net": {"layers": cell({"type": "relu"}), "a": 1.0}}, appendmat=False)
    assert read(path).layers == (Activate(name="layer 1", function="relu"),)


@pytest.mark.parametrize("held", [{"layers": np.zeros((1, 2))}, {"layers": np.empty((1, 0), object)}, {"net": 1.0}])
def test_what_is_no_network_is_refused(held: Settings, path: Path) -> None:
    scipy.io.savemat(path, held, appendmat=False)
    with pytest.raises(WeightsError, match="holds no network of MatConvNet's: there is no list named layers"):
        read(path)


@pytest.mark.parametrize("more", [{"params": 1.0}, {}])
def test_a_network_with_parameters_or_blocks_is_a_dag(more: Settings, path: Path) -> None:
    names = ("type", "name") if more else ("type", "block")
    structs = np.array([("relu", "a"), ("relu", "b")], [(name, object) for name in names])
    scipy.io.savemat(path, {"layers": structs, **more}, appendmat=False)
    with pytest.raises(WeightsError, match="is a DagNN network"):
        read(path)


# Preprocessing and labels


def fed(path: Path, **normalization: object) -> tuple[object, object, object, int]:
    """Resize, mean, input size, and the number of assumptions."""
    found = source(path, {"type": "relu"}, meta={"normalization": {"a": 1.0, **normalization}})
    said = found.preprocessing
    return said.resize, said.mean, said.input_size, len(found.assumptions)


def test_preprocessing_that_the_file_says(path: Path) -> None:
    assert fed(path) == (None, None, None, 0)
    assert fed(path, keepAspect=1.0)[0] == "shorter-side"
    assert fed(path, keepAspect=0.0)[0] == "warp"
    assert fed(path, imageSize=np.array([227.0, 227.0, 3.0]))[2] == 227
    assert fed(path, imageSize=np.array([227.0, 227.0]))[2] == 227
    for size in ([227.0, 224.0, 3.0], [227.0], [0.0, 0.0, 3.0]):
        assert fed(path, imageSize=np.array(size))[2] is None
    with pytest.raises(WeightsError, match=r"its image size is 227\.5, expected an integer"):
        fed(path, imageSize=np.array([227.5, 227.5]))
    # Older files have it at the top.
    found = source(path, {"type": "relu"}, normalization={"keepAspect": 1.0, "a": 1.0})
    assert found.preprocessing.resize == "shorter-side"


def test_means_of_three_numbers_and_of_images(path: Path) -> None:
    means = np.array([1.0, 2.0, 3.0])
    for values in (means.reshape(1, 1, 3), means.reshape(1, 3), means.reshape(3, 1)):
        assert fed(path, averageImage=values)[1::2] == ((1.0, 2.0, 3.0), 0)
    image = np.tile(means, (2, 2, 1))
    assert fed(path, averageImage=image)[1::2] == ((1.0, 2.0, 3.0), 1)
    image[0, 1] += 4
    found = source(path, {"type": "relu"}, meta={"normalization": {"averageImage": image, "a": 1.0}})
    (said,) = found.assumptions
    assert (said.value, said.option) == ("2, 3, 4", "--mean")
    assert said.reason.endswith("its pixels differ by up to 3")
    # As large as an image may be.
    assert fed(path, averageImage=np.ones((512, 512, 3), np.float32))[1] == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((1, 1, 1)),
        np.ones((2, 2)),
        np.ones((2, 3)),
        np.ones((3, 1, 2)),
        np.ones((3, 2, 1, 3)),
        np.ones((0, 3)),
        np.full((1, 1, 3), np.nan),
        np.array([[[1.0, np.inf, 1.0]]]),
        np.ones((512, 513, 3), np.float32),
    ],
)
def test_what_is_no_mean_is_left_alone(values: np.ndarray, path: Path) -> None:
    assert fed(path, averageImage=values)[1::2] == (None, 0)


def labels(path: Path, **classes: object) -> tuple[str, ...] | None:
    return source(path, {"type": "relu"}, meta={"classes": {"a": 1.0, **classes}}).labels


def test_names_of_classes(path: Path) -> None:
    assert labels(path) is None
    assert labels(path, name=cell("n1", "n2")) == ("n1", "n2")
    assert labels(path, description=cell("cat", "dog"), name=cell("n1", "n2")) == ("cat", "dog")
    assert labels(path, description=cell("cat", "cat"), name=cell("n1", "n2")) == ("cat (n1)", "cat (n2)")
    assert labels(path, description=cell("cat", "cat"), name=cell("n1")) == ("cat", "cat")
    assert labels(path, description=1.0, name=cell("n1")) == ("n1",)


@pytest.mark.parametrize(
    ("start", "is_one"),
    [(b"MATLAB 5.0 MAT-file, a", True), (b"MATLAB 7.3 MAT-file, a", True), (b"MATLAB 4.0 MAT-file", False)],
)
def test_it_is_recognised_by_its_header(start: bytes, is_one: bool, path: Path) -> None:
    assert recognises(path, start) is is_one
