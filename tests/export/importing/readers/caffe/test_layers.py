"""Caffe's layers, one by one: the fields of every version, their defaults, and what is refused."""

import numpy as np
import pytest
from google.protobuf import text_format

from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.readers.caffe.layers import CaffeLayer, ChainError, chain_of, input_size_of
from alexnet_deploy.export.importing.source import (
    Activate,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Padding,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    Unroll,
)

TENSORS = {"one.0": np.zeros(1), "one.1": np.zeros(1)}


def layer(text: str, *, name: str = "one", bottom: str = "data", top: str = "one") -> CaffeLayer:
    message = messages.LayerParameter(name=name, bottom=bottom.split(), top=top.split())
    return CaffeLayer.of(text_format.Merge(text, message))


def v1(text: str) -> CaffeLayer:
    message = messages.V1LayerParameter(name="one", bottom=["data"], top=["one"])
    return CaffeLayer.of(text_format.Merge(text, message))


def read(text: str) -> tuple[SourceLayer, ...]:
    return chain_of([layer(text)], TENSORS)


def refused(*layers: CaffeLayer) -> str:
    with pytest.raises(ChainError) as caught:
        chain_of(layers, TENSORS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "stride", "padding"),
    [
        ("", 1, (0, 0, 0, 0)),
        ("stride: 2", 2, (0, 0, 0, 0)),
        ("stride: 2 stride: 2", 2, (0, 0, 0, 0)),
        ("stride_h: 3 stride_w: 3", 3, (0, 0, 0, 0)),
        ("pad: 2", 1, (2, 2, 2, 2)),
        ("pad: 1 pad: 2", 1, (1, 2, 1, 2)),
        ("pad_h: 1 pad_w: 2", 1, (1, 2, 1, 2)),
        ("pad_h: 1", 1, (1, 0, 1, 0)),
        ("pad_w: 2", 1, (0, 2, 0, 2)),
        ("dilation: 1", 1, (0, 0, 0, 0)),
    ],
)
def test_a_convolution(fields: str, stride: int, padding: Padding) -> None:
    text = f'type: "Convolution" convolution_param {{ {fields} }}'
    expected = Convolve(name="one", weight="one.0", bias="one.1", layout="OIHW", stride=stride, padding=padding)
    assert read(text) == (expected,)
    assert chain_of([v1(text.replace('"Convolution"', "4"))], TENSORS) == (expected,)


def test_a_convolution_in_groups_without_biases() -> None:
    (found,) = chain_of([layer('type: "Convolution" convolution_param { group: 2 }')], {"one.0": np.zeros(1)})
    assert found == Convolve(name="one", weight="one.0", bias=None, layout="OIHW", groups=2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("kernel_size: 3", Pool(name="one", function="max", kernel=3, stride=1, round_up=True, counts_padding=True)),
        (
            "pool: AVE kernel_h: 3 kernel_w: 3 stride_h: 2 stride_w: 2 pad: 1 round_mode: FLOOR",
            Pool(name="one", function="average", kernel=3, stride=2, padding=(1, 1, 1, 1), counts_padding=True),
        ),
        (
            "kernel_size: 3 stride: 2 pad_h: 1 pad_w: 2 round_mode: CEIL",
            Pool(
                name="one",
                function="max",
                kernel=3,
                stride=2,
                padding=(1, 2, 1, 2),
                round_up=True,
                counts_padding=True,
            ),
        ),
        (
            "kernel_size: 3 pad_w: 2",
            Pool(
                name="one",
                function="max",
                kernel=3,
                stride=1,
                padding=(0, 2, 0, 2),
                round_up=True,
                counts_padding=True,
            ),
        ),
    ],
)
def test_a_pooling(fields: str, expected: Pool) -> None:
    assert read(f'type: "Pooling" pooling_param {{ {fields} }}') == (expected,)


LRN = Normalise(name="one", size=5, alpha=1.0, alpha_is_divided=True, beta=0.75, k=1.0)


@pytest.mark.parametrize(
    ("text", "number", "expected"),
    [
        ('type: "ReLU"', 18, (Activate(name="one", function="relu"),)),
        ('type: "ReLU" relu_param { negative_slope: 0 }', 18, (Activate(name="one", function="relu"),)),
        ('type: "TanH"', 23, (Activate(name="one", function="tanh"),)),
        ('type: "LRN"', 15, (LRN,)),
        (
            'type: "LRN" lrn_param { local_size: 3 alpha: 0.5 beta: 0.25 k: 2 }',
            15,
            (Normalise(name="one", size=3, alpha=0.5, alpha_is_divided=True, beta=0.25, k=2.0),),
        ),
        ('type: "Dropout"', 6, (Drop(name="one", probability=0.5),)),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.25 }', 6, (Drop(name="one", probability=0.25),)),
        ('type: "Flatten"', 8, (Unroll(name="one", order="CHW"),)),
        ('type: "Softmax"', 20, (Softmax(name="one"),)),
        (
            'type: "InnerProduct"',
            14,
            (
                Unroll(name="one (flattens)", order="CHW"),
                Connect(name="one", weight="one.0", bias="one.1", layout="OI"),
            ),
        ),
        ('type: "Split"', 22, ()),
    ],
)
def test_layers_of_both_versions(text: str, number: int, expected: tuple[SourceLayer, ...]) -> None:
    assert read(text) == expected
    kind, _, rest = text.partition(" ")[2].partition(" ")
    assert kind.startswith('"')
    assert chain_of([v1(f"type: {number} {rest}")], TENSORS) == expected


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("Data", 5),
        ("HDF5Data", 9),
        ("ImageData", 12),
        ("WindowData", 24),
        ("MemoryData", 29),
        ("DummyData", 32),
        ("Accuracy", 1),
        ("SoftmaxWithLoss", 21),
        ("Silence", 36),
    ],
)
def test_a_layer_of_training_is_left_out_unless_it_writes_the_networks_value(kind: str, number: int) -> None:
    relu = layer('type: "ReLU"')
    beside = layer(f'type: "{kind}"', name="two", bottom="one", top="two")
    of_v1 = messages.V1LayerParameter(name="two", bottom=["one"], top=["two"])
    expected = (Activate(name="one", function="relu"),)
    assert chain_of([relu, beside], TENSORS) == expected
    assert chain_of([relu, CaffeLayer.of(text_format.Merge(f"type: {number}", of_v1))], TENSORS) == expected
    in_place = layer(f'type: "{kind}"', name="two", bottom="one", top="one")
    assert refused(relu, in_place) == f"two: a layer of type {kind} is not supported"


def test_batch_norms_and_scales_of_v2() -> None:
    assert read('type: "BatchNorm"') == (
        Scale(
            name="one",
            mean="one.0",
            variance="one.1",
            scale=None,
            shift=None,
            epsilon=pytest.approx(1e-5),  # type: ignore[arg-type]
            factor="one.2",
        ),
    )
    assert read('type: "BatchNorm" batch_norm_param { eps: 0.5 }')[0].epsilon == 0.5  # type: ignore[union-attr]
    scale = Scale(name="one", mean=None, variance=None, scale="one.0", shift="one.1", epsilon=0.0)
    assert read('type: "Scale"') == read('type: "Scale" scale_param { axis: 1 }') == (scale,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('type: "Convolution" convolution_param { dilation: 2 }', "a dilated convolution is not supported"),
        ('type: "Convolution" convolution_param { dilation: 1 dilation: 2 }', "a dilated convolution is not supported"),
        (
            'type: "Convolution" convolution_param { stride: 1 stride: 2 }',
            "different strides along height and width are not supported",
        ),
        (
            'type: "Convolution" convolution_param { stride_h: 1 stride_w: 2 }',
            "different strides along height and width are not supported",
        ),
        ('type: "Pooling" pooling_param { global_pooling: true }', "global and stochastic pooling are not supported"),
        ('type: "Pooling" pooling_param { pool: STOCHASTIC }', "global and stochastic pooling are not supported"),
        (
            'type: "Pooling" pooling_param { kernel_h: 1 kernel_w: 2 }',
            "different sizes along height and width are not supported",
        ),
        (
            'type: "Pooling" pooling_param { kernel_size: 3 stride_h: 1 stride_w: 2 }',
            "different sizes along height and width are not supported",
        ),
        (
            'type: "InnerProduct" inner_product_param { axis: 2 }',
            "inner products over another axis, or transposed, are not supported",
        ),
        (
            'type: "InnerProduct" inner_product_param { transpose: true }',
            "inner products over another axis, or transposed, are not supported",
        ),
        ('type: "ReLU" relu_param { negative_slope: 0.1 }', "a ReLU with a negative slope is not supported"),
        (
            'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL }',
            "normalisation within a channel is not supported",
        ),
        ('type: "Scale" scale_param { axis: 0 }', "a scale over another axis than the channels' is not supported"),
        ('type: "Sigmoid"', "a layer of type Sigmoid is not supported"),
    ],
)
def test_another_layer_is_refused(text: str, words: str) -> None:
    assert refused(layer(text)) == f"one: {words}"


def test_types_that_v1_does_not_have_are_refused() -> None:
    assert refused(v1("type: 19")) == "one: a layer of type V1 type 19 is not supported"
    with pytest.raises(ChainError, match="has layers from before Caffe's V1"):
        v1('v0_layer: "x"')


# The chain


def relu(bottom: str, top: str, name: str = "one") -> CaffeLayer:
    return layer('type: "ReLU"', name=name, bottom=bottom, top=top)


def test_layers_in_place_and_behind_a_split_are_a_chain() -> None:
    split = layer('type: "Split"', bottom="a", top="left right")
    loss = layer('type: "SoftmaxWithLoss"', bottom="right label", top="loss")
    assert len(chain_of([relu("data", "a"), relu("a", "a"), split, relu("left", "b"), loss], TENSORS)) == 3


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([relu("data", "a"), relu("data", "b", "two")], "two: reads data, but the layer before it writes a; only a"),
        ([relu("data label", "a")], "one: reads data, label, but the layer before it writes the image; only a chain"),
        ([relu("", "a")], "one: reads nothing, but the layer before it writes the image; only a chain of layers"),
        ([relu("data", "a b")], "one: reads data, but the layer before it writes the image; only a chain of layers"),
        ([relu("data", "")], "one: reads data, but the layer before it writes the image; only a chain of layers"),
    ],
)
def test_what_is_not_a_chain_is_refused(layers: list[CaffeLayer], words: str) -> None:
    assert refused(*layers).startswith(words)


def size_of(header: str = "", *layers: CaffeLayer) -> int | None:
    return input_size_of(text_format.Parse(header, messages.NetHeader()), layers)


def test_the_side_of_the_input() -> None:
    assert size_of() is None
    assert size_of("input_dim: 1 input_dim: 3 input_dim: 32 input_dim: 32") == 32
    assert size_of("input_shape { dim: 1 dim: 3 dim: 32 dim: 32 }") == 32
    assert size_of("input_shape { dim: 9 } input_shape { dim: 1 dim: 3 dim: 32 dim: 32 }") == 32
    assert size_of("", layer('type: "Input" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } }')) == 32
    assert size_of("", layer('type: "Data" transform_param { crop_size: 32 }')) == 32
    assert size_of("", v1("type: 5 transform_param { crop_size: 32 }")) == 32
    assert size_of("", layer('type: "Data" transform_param { crop_size: 0 }')) is None
    assert size_of("input_dim: 1 input_dim: 3") is None
    for dims in ((1, 3, 32, 31), (1, 1, 32, 32), (1, 3, 0, 0)):
        header = " ".join(f"input_dim: {dim}" for dim in dims)
        words = f"takes an input of shape {dims[1:]}; expected a square of 3 channels"
        with pytest.raises(ChainError) as caught:
            size_of(header)
        assert str(caught.value) == words
    assert size_of("input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1") == 1
