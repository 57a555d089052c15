"""Keras's layers, one by one: the settings of every version, their defaults, and what is refused."""

from collections.abc import Mapping

import pytest

from alexnet_deploy.export.importing.readers.keras.config import KerasLayer
from alexnet_deploy.export.importing.readers.keras.contents import KerasError
from alexnet_deploy.export.importing.readers.keras.layers import Chain, chain_of
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

Settings = dict[str, object]
Shapes = Mapping[str, tuple[int, ...]]

IMAGE = {"batch_shape": [None, 32, 32, 3]}
CONV: Settings = {"filters": 8, "kernel_size": [3, 3], "strides": [1, 1], "padding": "valid", "activation": "linear"}
KERNEL: Shapes = {"conv/kernel": (3, 3, 3, 8), "conv/bias": (8,)}
POOL: Settings = {"pool_size": [3, 3], "strides": [2, 2], "padding": "valid"}


def layer(kind: str, name: str, settings: Settings, call: Settings | None = None) -> KerasLayer:
    return KerasLayer(kind=kind, name=name, stored_name="", settings=settings, call=call or {})


def chain(*layers: KerasLayer, shapes: Shapes = KERNEL) -> Chain:
    """The chain of these layers; an array belongs to the layer whose name its own begins with."""
    return chain_of(layers, lambda one: [name for name in shapes if name.startswith(f"{one.name}/")], shapes)


def conv(shapes: Shapes = KERNEL, image: Settings = IMAGE, **changes: object) -> Convolve:
    found = chain(layer("InputLayer", "input", image), layer("Conv2D", "conv", CONV | changes), shapes=shapes)
    (only,) = found.layers
    assert isinstance(only, Convolve)
    return only


def refused(*layers: KerasLayer, shapes: Shapes = KERNEL) -> str:
    with pytest.raises(KerasError) as caught:
        chain(*layers, shapes=shapes)
    return str(caught.value)


def refused_conv(shapes: Shapes = KERNEL, **changes: object) -> str:
    return refused(layer("InputLayer", "input", IMAGE), layer("Conv2D", "conv", CONV | changes), shapes=shapes)


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
        ({"dilation_rate": [1, 2]}, "a dilated convolution is not known here"),
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
        ({"padding": None}, "its padding 'None' is not known here"),
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


# Sizes, channels and padding


@pytest.mark.parametrize(
    ("shape", "data_format", "size"),
    [
        ([None, 32, 32, 3], None, 32),
        ([None, 3, 32, 32], None, 32),
        ([None, 3, 3, 3], None, 3),
        ([8, 32, 32, 3], "channels_last", 32),
        ([None, 3, 32, 32], "channels_first", 32),
        ([None, None, None, 3], None, None),
        (None, None, None),
    ],
)
def test_the_side_of_the_input_is_taken(shape: object, data_format: str | None, size: int | None) -> None:
    found = chain(layer("InputLayer", "input", {"batch_shape": shape, "data_format": data_format}))
    assert found == Chain(layers=(), input_size=size, scale=None, mean=None)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([None, 32, 31, 3], "takes an input of 32 x 31 x 3; a square of 3 channels is needed"),
        ([None, 32, 32, 4], "takes an input of 32 x 32 x 4; a square of 3 channels is needed"),
        ([None, 32, 3], "takes an input of 3 dimensions; images of 3 channels are needed"),
        ([None, 0, 0, 3], "its input is 0, where a whole number from 1 is needed"),
    ],
)
def test_another_input_is_refused(shape: object, words: str) -> None:
    assert refused(layer("InputLayer", "input", {"batch_shape": shape})) == f"input: {words}"


def test_the_first_input_counts_and_only_before_all_layers() -> None:
    again = layer("InputLayer", "again", {"batch_shape": [None, 16, 16, 3]})
    assert chain(layer("InputLayer", "input", IMAGE), again).input_size == 32
    assert chain(layer("ReLU", "relu", {}), again).input_size is None


def test_channels_stay_where_the_first_layer_has_them() -> None:
    first = layer("InputLayer", "input", {"batch_shape": [None, 3, 32, 32]})
    words = "has its channels at another place than the layers before it"
    assert refused(first, layer("MaxPooling2D", "pool", POOL | {"data_format": "channels_last"})) == f"pool: {words}"
    pool = layer("MaxPooling2D", "pool", POOL | {"data_format": "channels_first"})
    assert refused(layer("InputLayer", "input", IMAGE), pool) == f"pool: {words}"
    # Without an input, the first layer that says it.
    last = layer("MaxPooling2D", "last", POOL)
    assert refused(last, pool) == f"pool: {words}"
    assert len(chain(pool, last).layers) == 2
    zeros = layer("ZeroPadding2D", "zeros", {"padding": 1, "data_format": "channels_first"})
    assert refused(last, zeros) == f"zeros: {words}"


@pytest.mark.parametrize(("side", "stride", "padding"), [(32, 1, (1, 1, 1, 1)), (32, 2, (0, 0, 1, 1))])
def test_same_padding_of_an_even_side(side: int, stride: int, padding: tuple[int, ...]) -> None:
    assert conv(strides=stride, padding="same").padding == padding


def test_same_padding_of_other_sides_and_windows() -> None:
    assert conv(strides=2, padding="same", image={"batch_shape": [None, 31, 31, 3]}).padding == (1, 1, 1, 1)
    assert conv(strides=4, padding="same", image={"batch_shape": [None, 32, 32, 3]}).padding == (0, 0, 0, 0)
    even = {"conv/kernel": (4, 4, 3, 8), "conv/bias": (8,)}
    assert conv(even, kernel_size=4, padding="same").padding == (1, 1, 2, 2)
    # Without a size, where it does not matter.
    assert conv(padding="same", image={}).padding == (1, 1, 1, 1)
    words = "pads to the same size, which depends on the input's size, and the file does not say it"
    assert refused(layer("Conv2D", "conv", CONV | {"strides": 2, "padding": "same"})) == f"conv: {words}"


def padded_after(*before: KerasLayer) -> tuple[int, ...]:
    """Padding of a window of 3, 2 apart, after these layers: it shows whether the side before it is even."""
    last = chain(*before, layer("MaxPooling2D", "last", POOL | {"padding": "same"})).layers[-1]
    assert isinstance(last, Pool)
    return last.padding


def test_the_side_is_followed_through_convolutions_and_pools() -> None:
    image, even, odd = layer("InputLayer", "input", IMAGE), (0, 0, 1, 1), (1, 1, 1, 1)
    assert padded_after(image) == even
    # 32 -> 30 -> 14.
    assert padded_after(image, layer("Conv2D", "conv", CONV)) == even
    # 32 -> 15.
    assert padded_after(image, layer("MaxPooling2D", "pool", POOL)) == odd
    assert padded_after(image, layer("Conv2D", "conv", CONV | {"strides": 2})) == odd
    # 32 -> 32 and 16.
    assert padded_after(image, layer("Conv2D", "conv", CONV | {"padding": "same"})) == even
    assert padded_after(image, layer("MaxPooling2D", "pool", POOL | {"padding": "same"})) == even
    # 32 and 3 more -> 33.
    wider = layer("ZeroPadding2D", "zeros", {"padding": [[1, 2], [2, 1]]})
    assert padded_after(image, wider, layer("Conv2D", "conv", CONV)) == odd
    # Taller than wide: the side is not known any more.
    taller = layer("ZeroPadding2D", "zeros", {"padding": [[1, 2], [1, 1]]})
    last = layer("MaxPooling2D", "last", POOL | {"padding": "same"})
    assert refused(image, taller, layer("Conv2D", "conv", CONV), last).startswith("last: pads to the same size")


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, (2, 2, 2, 2)),
        ([1, 2], (1, 2, 1, 2)),
        ([[1, 2], [3, 4]], (1, 3, 2, 4)),
        ([[0, 0], [0, 1]], (0, 0, 0, 1)),
        ([0, 0], (0, 0, 0, 0)),
    ],
)
def test_zeros_join_the_next_convolution_alone(padding: object, expected: tuple[int, ...]) -> None:
    zeros = layer("ZeroPadding2D", "zeros", {"padding": padding})
    first, second = chain(zeros, layer("Conv2D", "conv", CONV), layer("Conv2D", "conv/", CONV), shapes=TWO).layers
    assert (first.padding, second.padding) == (expected, (0, 0, 0, 0))  # type: ignore[union-attr]


TWO: Shapes = {"conv//k": (3, 3, 8, 8), "conv//b": (8,)}


def test_zeros_that_join_nothing_are_refused() -> None:
    zeros = layer("ZeroPadding2D", "zeros", {"padding": 1})
    words = "follows ZeroPadding2D, which is known before a convolution alone"
    assert refused(zeros, layer("MaxPooling2D", "pool", POOL)) == f"pool: {words}"
    same = layer("Conv2D", "conv", CONV | {"padding": "same"})
    assert refused(zeros, same) == "conv: its padding 'same' is not known here"
    three = layer("ZeroPadding2D", "zeros", {"padding": [1, 1, 1]})
    assert refused(three) == "zeros: its padding has 3 numbers, where 1 or 2 are needed"
    less = layer("ZeroPadding2D", "zeros", {"padding": -1})
    assert refused(less) == "zeros: its padding is -1, where a whole number from 0 is needed"


# Other layers


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
        ("ReLU", {"max_value": 6.0}, "a ReLU with a limit, a slope or a threshold is not known here"),
        ("ReLU", {"max_value": 0.0}, "a ReLU with a limit, a slope or a threshold is not known here"),
        ("ReLU", {"negative_slope": 0.1}, "a ReLU with a limit, a slope or a threshold is not known here"),
        ("ReLU", {"threshold": 1.0}, "a ReLU with a limit, a slope or a threshold is not known here"),
        ("Activation", {"activation": "elu"}, "its activation 'elu' is not known here"),
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
    words = "two: a Rescaling that is not the first layer is not known here"
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
