"""Keras's layers, one by one: the settings of every version, their defaults, and what is refused."""

import pytest
from keras_chain import CONV, IMAGE, KERNEL, POOL, Settings, chain, conv, layer, refused, refused_conv

from alexnet_deploy.export.importing.readers.keras.config import KerasLayer
from alexnet_deploy.export.importing.readers.keras.contents import KerasError
from alexnet_deploy.export.importing.readers.keras.layers import chain_of
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    Unroll,
)


def test_a_convolution_is_read_with_its_defaults() -> None:
    plain = Convolve(name="conv", weight="conv/kernel", bias="conv/bias", layout="HWIO")
    assert conv() == plain
    assert conv(strides=None, dilation_rate=None, groups=None) == plain
    assert conv(strides=2, kernel_size=3, dilation_rate=1, groups=1) == conv(strides=[2, 2])
    assert conv(strides=2).stride == 2
    assert conv(shapes={"conv/kernel": (3, 3, 1, 8), "conv/bias": (8,)}, groups=3).groups == 3
    assert conv(shapes={"conv/kernel": (3, 3, 3, 8)}, use_bias=False).bias is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dilation_rate": [1, 2]}, "a dilated convolution is not supported"),
        ({"kernel_size": [3, 5]}, "has a kernel of shape (3, 3, 3, 8), where 8 square filters of 3 are needed"),
        ({"kernel_size": [5, 5]}, "has a kernel of shape (3, 3, 3, 8), where 8 square filters of 5 are needed"),
        ({"kernel_size": [3, 3, 3]}, "its kernel has 3 numbers, where 1 or 2 are needed"),
        ({"filters": 9}, "has a kernel of shape (3, 3, 3, 8), where 9 square filters of 3 are needed"),
        ({"filters": 0}, "its filters is 0, where a whole number from 1 is needed"),
        ({"filters": 65537}, "its filters is 65537, where a whole number from 1 is needed"),
        ({"filters": 7.5}, "its filters is 7.5, where a whole number from 1 is needed"),
        ({"filters": True}, "its filters is 'True', where a number is needed"),
        ({"filters": 1e9}, "its filters is '1000000000.0', where a number is needed"),
        ({"strides": 0}, "its stride is 0, where a whole number from 1 is needed"),
        ({"groups": 0}, "its groups is 0, where a whole number from 1 is needed"),
        ({"padding": None}, "its padding 'None' is not supported"),
        ({"data_format": "channels_middle"}, "its data format is 'channels_middle'"),
    ],
)
def test_a_convolution_that_is_not_known_is_refused(changes: Settings, words: str) -> None:
    assert refused_conv(**changes) == f"conv: {words}"


def test_a_convolution_of_other_arrays_is_refused() -> None:
    assert refused_conv({"conv/kernel": (3, 3, 3, 8)}) == "conv: has 1 arrays in the file, where 2 are needed"
    assert refused_conv({**KERNEL, "conv/more": (8,)}) == "conv: has 3 arrays in the file, where 2 are needed"
    assert refused_conv({"conv/kernel": (3, 3, 8), "conv/bias": (8,)}).startswith("conv: has a kernel of shape (3, 3,")
    with pytest.raises(KerasError, match="conv: the file has no array conv/bias"):
        chain_of([layer("Conv2D", "conv", CONV)], lambda one: list(KERNEL), {"conv/kernel": (3, 3, 3, 8)})


def test_names_of_keras_1() -> None:
    settings: Settings = {"nb_filter": 8, "nb_row": 3, "nb_col": 3, "subsample": [2, 2], "border_mode": "same"}
    found = chain(layer("Convolution2D", "conv", settings | {"bias": True, "dim_ordering": "tf"} | {"a": 1} | IMAGE))
    (only,) = found.layers
    assert only == Convolve(
        name="conv", weight="conv/kernel", bias="conv/bias", layout="HWIO", stride=2, padding=(0, 0, 1, 1)
    )
    bare = {"conv/kernel": (3, 3, 3, 8)}
    (only,) = chain(layer("Convolution2D", "conv", settings | {"bias": False} | IMAGE), shapes=bare).layers
    assert only.bias is None  # type: ignore[union-attr]
    words = refused(layer("Convolution2D", "conv", settings | {"dim_ordering": "th"}))
    assert words.startswith("conv: is of Keras 1 with its channels first")
    assert refused(layer("Convolution2D", "conv", settings | {"nb_col": 5} | IMAGE)).startswith("conv: has a kernel of")


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("ReLU", {}, (Activate(name="one", function="relu"),)),
        ("ReLU", {"max_value": None, "negative_slope": 0.0, "threshold": 0}, (Activate(name="one", function="relu"),)),
        ("Activation", {"activation": "relu"}, (Activate(name="one (relu)", function="relu"),)),
        ("Activation", {"activation": "tanh"}, (Activate(name="one (tanh)", function="tanh"),)),
        ("Activation", {"activation": "softmax"}, (Softmax(name="one (softmax)"),)),
        ("Activation", {"activation": "linear"}, ()),
        ("Activation", {}, ()),
        ("Softmax", {}, (Softmax(name="one"),)),
        ("Dropout", {"rate": 0.4}, (Drop(name="one", probability=0.4),)),
        ("Dropout", {"p": 0.3}, (Drop(name="one", probability=0.3),)),
        ("MaxPooling2D", POOL, (Pool(name="one", function="max", kernel=3, stride=2),)),
        ("AveragePooling2D", POOL, (Pool(name="one", function="average", kernel=3, stride=2),)),
        # Windows of two, which do not overlap.
        ("MaxPooling2D", {"padding": "valid"}, (Pool(name="one", function="max", kernel=2, stride=2),)),
        (
            "MaxPooling2D",
            {"pool_size": 3, "strides": None, "border_mode": "valid"},
            (Pool(name="one", function="max", kernel=3, stride=3),),
        ),
        (
            "GlobalAveragePooling2D",
            {},
            (AdaptivePool(name="one", size=1), Unroll(name="one (flattens)", order="CHW")),
        ),
        ("Flatten", {}, (Unroll(name="one", order="HWC"),)),
        ("GaussianNoise", {"stddev": 1.0}, ()),
        ("RandomZoom", {}, ()),
    ],
)
def test_a_layer_without_arrays(kind: str, settings: Settings, expected: tuple[SourceLayer, ...]) -> None:
    assert chain(layer(kind, "one", settings)).layers == expected


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("ReLU", {"max_value": 6.0}, "a ReLU with a limit, a slope or a threshold is not supported"),
        ("ReLU", {"max_value": 0.0}, "a ReLU with a limit, a slope or a threshold is not supported"),
        ("ReLU", {"negative_slope": 0.1}, "a ReLU with a limit, a slope or a threshold is not supported"),
        ("ReLU", {"threshold": 1.0}, "a ReLU with a limit, a slope or a threshold is not supported"),
        ("Activation", {"activation": "elu"}, "its activation 'elu' is not supported"),
        ("Dropout", {}, "its rate is 'None', where a number is needed"),
        ("Rescaling", {"scale": [1, 1], "offset": 0}, "its scale has 2 numbers, where 1 or 3 are needed"),
        ("Rescaling", {"scale": 0.0, "offset": 0}, "its scale is 0"),
        ("Rescaling", {"scale": [1, 1, 0], "offset": 0}, "its scale is 0"),
        ("Rescaling", {"scale": 1, "offset": [1, 2, 3, 4]}, "its offset has 4 numbers, where 1 or 3 are needed"),
    ],
)
def test_another_layer_without_arrays_is_refused(kind: str, settings: Settings, words: str) -> None:
    assert refused(layer(kind, "one", settings)) == f"one: {words}"


def test_channels_first_are_flattened_in_the_order_of_each_version() -> None:
    first = layer("InputLayer", "input", {"batch_shape": [None, 3, 32, 32]})
    orders = {}
    for said in (None, "channels_first", "channels_last"):
        (flat,) = chain(first, layer("Flatten", "flat", {"data_format": said})).layers
        orders[said] = flat.order  # type: ignore[union-attr]
    assert orders == {None: "CHW", "channels_first": "HWC", "channels_last": "CHW"}
    words = "flat: has its channels at another place than the layers before it"
    last = layer("Flatten", "flat", {"data_format": "channels_first"})
    assert refused(layer("InputLayer", "input", IMAGE), last) == words
    (flat,) = chain(last).layers
    assert flat.order == "HWC"  # type: ignore[union-attr]


def test_a_fully_connected_layer() -> None:
    shapes = {"fc/kernel": (4, 2), "fc/bias": (2,)}
    found = chain(layer("Dense", "fc", {"activation": "softmax"}), shapes=shapes).layers
    connect = Connect(name="fc", weight="fc/kernel", bias="fc/bias", layout="IO")
    assert found == (connect, Softmax(name="fc (softmax)"))
    (only,) = chain(layer("Dense", "fc", {"use_bias": False}), shapes={"fc/kernel": (4, 2)}).layers
    assert only == Connect(name="fc", weight="fc/kernel", bias=None, layout="IO")


def test_a_rescaling_gives_mean_and_scale_of_each_channel() -> None:
    found = chain(layer("Rescaling", "one", {"scale": [0.5, 0.25, 1.0], "offset": [-1.0, 2.0, 0.0]}))
    assert (found.layers, found.scale, found.mean) == ((), (0.5, 0.25, 1.0), (2.0, -8.0, 0.0))
    words = "two: a Rescaling that is not the first layer is not supported"
    one = layer("Rescaling", "one", {"scale": 1.0, "offset": 0.0})
    two = layer("Rescaling", "two", {"scale": 1.0, "offset": 0.0})
    assert refused(one, two) == words
    assert refused(layer("ReLU", "relu", {}), two) == words


# Batch normalisation and LRN


def norm(number: int, *before: KerasLayer, **settings: object) -> Scale:
    """The last layer: a batch norm of so many arrays."""
    shapes = {f"bn/{place}": (8,) for place in range(number)} | {"fc/kernel": (4, 2), "fc/bias": (2,)}
    plain: Settings = {"axis": -1, "epsilon": 0.25}
    last = chain(*before, layer("BatchNormalization", "bn", plain | settings), shapes=shapes).layers[-1]
    assert isinstance(last, Scale)
    return last


def test_a_batch_norm_with_and_without_its_scale_and_shift() -> None:
    whole = Scale(name="bn", scale="bn/0", shift="bn/1", mean="bn/2", variance="bn/3", epsilon=0.25)
    assert norm(4) == norm(4, scale=True, center=True, mode=0) == whole
    assert norm(3, scale=False) == Scale(
        name="bn", scale=None, shift="bn/0", mean="bn/1", variance="bn/2", epsilon=0.25
    )
    assert norm(3, center=False) == Scale(
        name="bn", scale="bn/0", shift=None, mean="bn/1", variance="bn/2", epsilon=0.25
    )
    assert norm(2, scale=False, center=False) == Scale(
        name="bn", scale=None, shift=None, mean="bn/0", variance="bn/1", epsilon=0.25
    )
    for number, settings in ((3, {}), (5, {}), (4, {"scale": False}), (3, {"scale": False, "center": False})):
        needed = 2 + (settings.get("scale") is not False) + (settings.get("center") is not False)
        with pytest.raises(KerasError, match=f"bn: has {number} arrays in the file, where {needed} are needed"):
            norm(number, **settings)


def test_a_batch_norm_is_along_the_channels() -> None:
    first = layer("InputLayer", "input", {"batch_shape": [None, 3, 32, 32]})
    last = layer("InputLayer", "input", IMAGE)
    flat = layer("Flatten", "flat", {})
    connected = layer("Dense", "fc", {})
    right: list[tuple[tuple[KerasLayer, ...], object]] = [
        ((last,), -1),
        ((last,), 3),
        ((last,), [3]),
        ((first,), 1),
        ((first,), [1]),
        ((last, flat), -1),
        ((last, flat), 1),
        ((last, connected), 1),
        ((first, flat), -1),
    ]
    for before, axis in right:
        norm(4, *before, axis=axis)
    wrong: list[tuple[tuple[KerasLayer, ...], dict[str, object]]] = [
        ((last,), {"axis": 1}),
        ((last,), {"axis": 2}),
        ((last,), {"axis": [1, 3]}),
        ((first,), {"axis": -1}),
        ((first,), {"axis": 3}),
        ((last, flat), {"axis": 3}),
        ((last,), {"mode": 1}),
        ((last,), {"mode": 2}),
    ]
    for before, settings in wrong:
        with pytest.raises(KerasError, match="bn: normalises along another axis than the channels"):
            norm(4, *before, **settings)


@pytest.mark.parametrize("function", ["nn.local_response_normalization", "nn.lrn"])
def test_tensorflows_lrn_with_its_defaults(function: str) -> None:
    def lrn(**call: object) -> SourceLayer:
        (only,) = chain(layer("TFOpLambda", "one", {"function": function}, call)).layers
        return only

    assert lrn() == Normalise(name="one", size=11, alpha=1.0, alpha_is_divided=False, beta=0.5, k=1.0)
    assert lrn(depth_radius=2, bias=2, alpha=1e-4, beta=0.75) == Normalise(
        name="one", size=5, alpha=1e-4, alpha_is_divided=False, beta=0.75, k=2.0
    )
    with pytest.raises(KerasError, match=r"one: its radius is 0, where a whole number from 1 is needed"):
        lrn(depth_radius=0)
