"""The side of a Keras model's image through its layers, where its channels are, and its padding."""

import pytest
from keras_chain import CONV, IMAGE, POOL, Shapes, chain, conv, layer, refused

from alexnet_deploy.export.importing.readers.keras.config import KerasLayer
from alexnet_deploy.export.importing.readers.keras.layers import Chain
from alexnet_deploy.export.importing.source import (
    Pool,
)


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
    assert refused(zeros, same) == "conv: its padding 'same' is not supported"
    three = layer("ZeroPadding2D", "zeros", {"padding": [1, 1, 1]})
    assert refused(three) == "zeros: its padding has 3 numbers, where 1 or 2 are needed"
    less = layer("ZeroPadding2D", "zeros", {"padding": -1})
    assert refused(less) == "zeros: its padding is -1, where a whole number from 0 is needed"
