"""A source's layers as ours, one by one: names, shapes, folded constants, and what our tables cannot express."""

import numpy as np
import pytest
from sources import drawn, source

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    AveragePool,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    Tanh,
)
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Padding,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    SpatialNormalise,
    Unroll,
)
from alexnet_deploy.export.importing.translate import Translated, translate

SIZE = 9
CONV = Convolve(name="c", weight="w", bias="b", layout="OIHW")
END = Connect(name="end", weight="end", bias=None, layout="OI")
FLAT = Unroll(name="flat", order="CHW")


def tensors(**more: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": drawn(8, 3, 3, 3), "b": drawn(8), **more}


def translated(*layers: SourceLayer, size: int = SIZE, **more: np.ndarray) -> Translated:
    return translate(source(*layers, **tensors(**more)), size)


def ended(*layers: SourceLayer, values: int, size: int = SIZE, **more: np.ndarray) -> Translated:
    """These layers, then one that is fully connected to as many values."""
    return translated(*layers, FLAT, END, size=size, end=drawn(2, values), **more)


def first(layer: SourceLayer, *, values: int, **more: np.ndarray) -> tuple[Layer, ...]:
    """What a layer on an image of 9 x 9 becomes; so many values are left."""
    *found, flatten, last = ended(layer, values=values, **more).layers
    assert isinstance(flatten, Flatten)
    assert isinstance(last, Linear)
    return tuple(found)


def refused(*layers: SourceLayer, size: int = SIZE, **more: np.ndarray) -> str:
    with pytest.raises(WeightsError) as caught:
        translated(*layers, size=size, **more)
    return str(caught.value).removeprefix("x: ")


# Convolutions and fully connected layers


@pytest.mark.parametrize(
    ("stride", "padding", "values"),
    [(1, (0, 0, 0, 0), 8 * 49), (2, (0, 0, 0, 0), 8 * 16), (2, (1, 2, 3, 4), 8 * 6 * 7)],
)
def test_a_convolution(stride: int, padding: Padding, values: int) -> None:
    layer = Convolve(name="c", weight="w", bias="b", layout="OIHW", stride=stride, padding=padding)
    assert first(layer, values=values) == (
        Conv(name="conv1", out_channels=8, kernel=3, stride=stride, padding=padding, groups=1),
    )


def test_tensors_of_both_layouts_and_without_biases() -> None:
    held = tensors()
    one = ended(CONV, values=8 * 49)
    assert np.array_equal(one.tensors["conv1.weight"], held["w"])
    assert np.array_equal(one.tensors["conv1.bias"], held["b"])
    assert np.array_equal(one.tensors["fc2.bias"], [0, 0])
    assert list(one.tensors) == ["conv1.weight", "conv1.bias", "fc2.weight", "fc2.bias"]
    other = Convolve(name="c", weight="w", bias=None, layout="HWIO")
    two = ended(other, values=8 * 49, w=held["w"].transpose(2, 3, 1, 0))
    assert np.array_equal(two.tensors["conv1.weight"], held["w"])
    assert np.array_equal(two.tensors["conv1.bias"], np.zeros(8))
    assert one.input_size == SIZE


def test_groups_are_kept() -> None:
    layer = Convolve(name="c", weight="w", bias="b", layout="OIHW", groups=3)
    (conv,) = first(layer, values=6 * 49, w=drawn(6, 1, 3, 3), b=drawn(6))
    assert conv.groups == 3  # type: ignore[union-attr]
    assert refused(layer) == "c: expects 9 channels, but gets 3"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"w": drawn(8, 3, 3, 2)}, "c: a kernel of 3 x 2, expected a square one"),
        ({"w": drawn(8, 3, 3)}, "c: w is of shape (8, 3, 3), expected 4 dimensions"),
        ({"w": drawn(8, 4, 3, 3)}, "c: expects 4 channels, but gets 3"),
        ({"w": drawn(8, 3, 10, 10)}, "c: a kernel of 10 is larger than its input of 9 x 9"),
        ({"b": drawn(7)}, "c: b has 7 values for 8 outputs"),
        ({"b": drawn(8, 1)}, "c: b is of shape (8, 1), expected 1 dimensions"),
        ({"w": np.full((8, 3, 3, 3), np.nan, np.float32)}, "c: w holds NaN or infinite values"),
        ({"b": np.array([0] * 7 + [np.inf], np.float32)}, "c: b holds NaN or infinite values"),
        ({"w": np.broadcast_to(np.float32(np.nan), (8, 3, 3, 3))}, "c: w holds NaN or infinite values"),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused(more: dict[str, np.ndarray], words: str) -> None:
    assert refused(CONV, **more) == words


def test_a_tensor_that_is_missing_is_named() -> None:
    lost = Convolve(name="c", weight="lost", bias=None, layout="OIHW")
    assert refused(lost) == "c: there is no tensor lost"


def test_a_convolution_that_sees_all_is_fully_connected() -> None:
    held = tensors()
    found = translated(CONV, Convolve(name="d", weight="d", bias=None, layout="OIHW"), size=3, d=drawn(2, 8, 1, 1))
    assert found.layers == (
        Flatten(name="flatten"),
        Linear(name="fc1", out_features=8),
        Linear(name="fc2", out_features=2),
    )
    assert np.array_equal(found.tensors["fc1.weight"], held["w"].reshape(8, -1))
    # With padding it is a convolution.
    padded = Convolve(name="c", weight="w", bias="b", layout="OIHW", padding=(1, 1, 1, 1))
    assert isinstance(ended(padded, values=8 * 9, size=3).layers[0], Conv)
    grouped = Convolve(name="c", weight="w", bias="b", layout="OIHW", groups=3)
    assert refused(grouped, size=3, w=drawn(6, 1, 3, 3), b=drawn(6)) == (
        "c: a fully connected layer in groups is not in our tables"
    )
    # A row of values has no height.
    words = "d: expects channels, height and width, but gets a row of 8 values"
    assert refused(CONV, Convolve(name="d", weight="d", bias=None, layout="OIHW"), size=3, d=drawn(2, 8, 3, 3)) == words


def test_fully_connected_layers_of_both_layouts() -> None:
    weight = drawn(2, 243)
    found = translated(FLAT, Connect(name="f", weight="f", bias="fb", layout="OI"), f=weight, fb=drawn(2))
    assert found.layers == (Flatten(name="flatten"), Linear(name="fc1", out_features=2))
    assert np.array_equal(found.tensors["fc1.weight"], weight)
    turned = translated(FLAT, Connect(name="f", weight="f", bias=None, layout="IO"), f=weight.T)
    assert np.array_equal(turned.tensors["fc1.weight"], weight)
    words = "f: expects 244 values, but gets 243"
    assert refused(FLAT, Connect(name="f", weight="f", bias=None, layout="OI"), f=drawn(2, 244)) == words
    assert refused(END, end=drawn(2, 243)) == "end: is fully connected, but its input is not flattened"


def test_a_row_in_the_order_of_tensorflow_is_turned() -> None:
    weight = drawn(2, 8 * 49)
    flat = Unroll(name="flat", order="HWC")
    found = translated(
        CONV, flat, END, Connect(name="f", weight="f", bias=None, layout="OI"), end=weight, f=drawn(2, 2)
    )
    expected = weight.reshape(2, 7, 7, 8).transpose(0, 3, 1, 2).reshape(2, -1)
    assert np.array_equal(found.tensors["fc2.weight"], expected)
    # Only once.
    assert np.array_equal(found.tensors["fc3.weight"], drawn(2, 2))
    # A row is not flattened again.
    again = translated(CONV, FLAT, flat, END, end=weight)
    assert np.array_equal(again.tensors["fc2.weight"], weight)
    assert len(again.layers) == 3


def test_a_pixel_is_flattened_where_it_is_fully_connected() -> None:
    pool = AdaptivePool(name="p", size=1)
    found = translated(pool, END, end=drawn(2, 3))
    assert found.layers == (
        AdaptiveAveragePool(name="pool0", size=1),
        Flatten(name="flatten"),
        Linear(name="fc1", out_features=2),
    )
    strip = Pool(name="p", function="max", kernel=9, stride=1, padding=(0, 0, 0, 1))
    assert refused(strip, END, end=drawn(2, 6)).startswith("end: is fully connected, but its input is not flattened")


# Layers without tensors


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Activate(name="a", function="relu"), Relu(name="relu0")),
        (Activate(name="a", function="tanh"), Tanh(name="tanh0")),
        (Drop(name="d", probability=float(np.float32(0.4))), Dropout(name="drop1", probability=0.4)),
        (
            Normalise(name="n", size=5, alpha=float(np.float32(1e-4)), alpha_is_divided=True, beta=0.75, k=2.0),
            LocalNorm(name="norm0", size=5, alpha=1e-4, beta=0.75, k=2.0),
        ),
        (
            Normalise(name="n", size=5, alpha=1e-4, alpha_is_divided=False, beta=0.75, k=1.0, groups=3),
            LocalNorm(name="norm0", size=5, alpha=5e-4, beta=0.75, k=1.0, groups=3),
        ),
        (
            SpatialNormalise(name="n", size=5, alpha=float(np.float32(1e-3)), beta=0.75, k=1.0),
            SpatialNorm(name="spatial_norm0", size=5, alpha=1e-3, beta=0.75, k=1.0),
        ),
    ],
)
def test_a_layer_that_keeps_the_shape(layer: SourceLayer, expected: Layer) -> None:
    assert first(layer, values=243) == (expected,)


def test_layers_of_planes_are_refused_on_rows() -> None:
    words = "expects channels, height and width, but gets a row of 243 values"
    for layer in (
        Normalise(name="n", size=5, alpha=1e-4, alpha_is_divided=True, beta=0.75, k=2.0),
        Pool(name="n", function="max", kernel=3, stride=2),
        AdaptivePool(name="n", size=1),
    ):
        assert refused(FLAT, layer) == f"n: {words}"


def test_names_are_numbered_like_the_last_layer_with_tensors() -> None:
    relu, drop = Activate(name="a", function="relu"), Drop(name="d")
    conv = Convolve(name="e", weight="e", bias=None, layout="OIHW")
    last = Connect(name="f", weight="f", bias=None, layout="OI")
    layers = (relu, CONV, relu, relu, conv, relu, drop, FLAT, END, relu, drop, drop, last)
    found = translated(*layers, e=drawn(4, 8, 3, 3), end=drawn(6, 100), f=drawn(2, 6))
    names = "relu0 conv1 relu1 relu1_3 conv2 relu2 drop3 flatten fc3 relu3 drop4 drop5 fc4"
    assert [layer.name for layer in found.layers] == names.split()


def test_the_last_layer_is_fully_connected_and_softmax_comes_after_it() -> None:
    words = "its last layer is not fully connected, so it gives no class scores"
    assert refused(CONV) == words
    assert refused() == words
    assert refused(FLAT, END, Activate(name="a", function="relu"), end=drawn(2, 243)) == words
    end = Softmax(name="s")
    assert len(translated(FLAT, END, end, end=drawn(2, 243)).layers) == 2
    assert (
        refused(FLAT, END, end, Drop(name="d"), end=drawn(2, 243)) == "d: follows the softmax, which must be the last"
    )


# Pooling


@pytest.mark.parametrize(
    ("pool", "expected", "values"),
    [
        (Pool(name="p", function="max", kernel=1, stride=1), (), 243),
        (Pool(name="p", function="max", kernel=3, stride=2), (MaxPool(name="pool0", kernel=3, stride=2),), 48),
        (Pool(name="p", function="max", kernel=1, stride=2), (MaxPool(name="pool0", kernel=1, stride=2),), 75),
        # The last window of 4 x 4 rounded down needs no padding behind.
        (
            Pool(name="p", function="max", kernel=3, stride=2, padding=(0, 0, 1, 1)),
            (MaxPool(name="pool0", kernel=3, stride=2),),
            48,
        ),
        (
            Pool(name="p", function="max", kernel=3, stride=3, padding=(1, 2, 2, 1)),
            (MaxPool(name="pool0", kernel=3, stride=3, padding=(1, 2, 2, 1)),),
            48,
        ),
        # Rounded up: the last window reaches behind the input.
        (
            Pool(name="p", function="max", kernel=2, stride=2, round_up=True),
            (MaxPool(name="pool0", kernel=2, stride=2, padding=(0, 0, 1, 1)),),
            75,
        ),
        # A last window that would begin behind the input is dropped.
        (
            Pool(name="p", function="average", kernel=3, stride=3, padding=(2, 2, 2, 2), round_up=True),
            (AveragePool(name="pool0", kernel=3, stride=3, padding=(2, 2, 1, 1)),),
            48,
        ),
        (
            Pool(name="p", function="average", kernel=3, stride=2, counts_padding=True),
            (AveragePool(name="pool0", kernel=3, stride=2),),
            48,
        ),
        (
            Pool(name="p", function="average", kernel=3, stride=2, padding=(1, 1, 1, 1), counts_padding=True),
            (AveragePool(name="pool0", kernel=3, stride=2, padding=(1, 1, 1, 1), counts_padding=True),),
            75,
        ),
        (
            Pool(name="p", function="average", kernel=3, stride=2, padding=(1, 1, 1, 1)),
            (AveragePool(name="pool0", kernel=3, stride=2, padding=(1, 1, 1, 1)),),
            75,
        ),
        (
            Pool(name="p", function="average", kernel=3, stride=2, padding=(0, 0, 1, 1), counts_padding=True),
            (AveragePool(name="pool0", kernel=3, stride=2),),
            48,
        ),
    ],
)
def test_a_pooling(pool: Pool, expected: tuple[Layer, ...], values: int) -> None:
    assert first(pool, values=values) == expected


def test_a_pooling_that_our_tables_cannot_express_is_refused() -> None:
    words = "p: windows of 2, 2 apart, do not tile 9 x 9 exactly, as our tables need"
    assert refused(Pool(name="p", function="max", kernel=2, stride=2)) == words
    assert refused(Pool(name="p", function="max", kernel=10, stride=1)).startswith("p: windows of 10, 1 apart, do not")
    counting = Pool(name="p", function="average", kernel=2, stride=2, padding=(1, 1, 1, 1), round_up=True)
    assert first(counting, values=75) == (AveragePool(name="pool0", kernel=2, stride=2, padding=(1, 1, 0, 0)),)
    beyond = Pool(
        name="p", function="average", kernel=4, stride=3, padding=(1, 1, 1, 1), round_up=True, counts_padding=True
    )
    words = "p: averages that count their padding and reach beyond it are not in our tables"
    assert refused(beyond) == words


def test_an_adaptive_pooling() -> None:
    assert first(AdaptivePool(name="p", size=9), values=243) == ()
    assert first(AdaptivePool(name="p", size=3), values=27) == (AdaptiveAveragePool(name="pool0", size=3),)
    assert refused(AdaptivePool(name="p", size=6)).startswith("p: pool0: 9 x 9 pixels do not split into 6 x 6 equal")


# Batch normalisation


def statistics() -> dict[str, np.ndarray]:
    return {"m": drawn(8, seed=1), "v": np.abs(drawn(8, seed=2)) + 1, "s": drawn(8, seed=3), "t": drawn(8, seed=4)}


@pytest.mark.parametrize("factor", [None, 4.0, 0.0])
@pytest.mark.parametrize("has_scale", [True, False])
def test_a_batch_normalisation_is_folded(has_scale: bool, factor: float | None) -> None:
    held, of = tensors(), statistics()
    layer = Scale(
        name="n",
        mean="m",
        variance="v",
        scale="s" if has_scale else None,
        shift="t" if has_scale else None,
        epsilon=0.25,
        factor=None if factor is None else "f",
    )
    found = ended(CONV, layer, values=8 * 49, f=np.array([factor or 0.0], np.float32), **of)
    # Statistics without samples are 0.
    divided = 1.0 if factor is None else 1 / factor if factor else 0.0
    columns = (of["s"] if has_scale else 1) / np.sqrt(of["v"] * divided + 0.25)
    shift = of["t"] if has_scale else 0
    weight, bias = found.tensors["conv1.weight"], found.tensors["conv1.bias"]
    np.testing.assert_allclose(weight, held["w"] * columns.reshape(8, 1, 1, 1), rtol=1e-5)
    np.testing.assert_allclose(bias, (held["b"] - of["m"] * divided) * columns + shift, rtol=1e-5, atol=1e-6)
    assert (weight.dtype, bias.dtype) == (np.float32, np.float32)
    assert found.layers[0] == Conv(name="conv1", out_channels=8, kernel=3)


def test_a_scale_alone_is_folded() -> None:
    held, of = tensors(), statistics()
    layer = Scale(name="n", mean=None, variance=None, scale="s", shift="t", epsilon=0.5)
    found = ended(CONV, layer, values=8 * 49, **of)
    np.testing.assert_allclose(found.tensors["conv1.weight"], held["w"] * of["s"].reshape(8, 1, 1, 1), rtol=1e-6)
    np.testing.assert_allclose(found.tensors["conv1.bias"], held["b"] * of["s"] + of["t"], rtol=1e-6)


def test_a_batch_normalisation_that_does_not_fit_is_refused() -> None:
    layer = Scale(name="n", mean="m", variance="v", scale="s", shift="t", epsilon=0.25)
    words = "n: a batch normalisation that does not follow a layer with weights is not in our tables"
    assert refused(layer, **statistics()) == words
    assert refused(CONV, Activate(name="a", function="relu"), layer, **statistics()) == words
    for name in ("m", "v", "s"):
        wrong = statistics() | {name: np.abs(drawn(7))}
        assert refused(CONV, layer, **wrong).startswith("n: ")
    seven = {name: np.abs(drawn(7)) for name in "mvst"}
    assert refused(CONV, layer, **seven).startswith("n: normalises 7 channels of 8")
