"""Layers of ONNX graphs: attributes, their defaults, and what is refused."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx_nodes import chain, node, only, refused

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


def conv(inputs: Sequence[str] = ("x", "w", "b"), **attributes: object) -> onnx.NodeProto:
    return node("Conv", inputs, ["y"], "n", **attributes)


def test_a_convolution_is_read_with_its_defaults() -> None:
    plain = Convolve(name="n", weight="w", bias="b", layout="OIHW")
    assert only(conv()) == plain
    same = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    assert only(conv(**same)) == plain
    assert (
        only(conv(["x", "w"])) == only(conv(["x", "w", ""])) == Convolve(name="n", weight="w", bias=None, layout="OIHW")
    )
    assert only(conv(strides=[2, 2], pads=[1, 2, 3, 4], group=2)) == Convolve(
        name="n", weight="w", bias="b", layout="OIHW", stride=2, padding=(1, 2, 3, 4), groups=2
    )


def test_automatic_padding_of_a_convolution() -> None:
    def padding(**attributes: object) -> object:
        return only(conv(**attributes)).padding  # type: ignore[union-attr]

    assert padding(auto_pad="SAME_UPPER") == padding(auto_pad="SAME_LOWER") == (1, 1, 1, 1)
    assert padding(auto_pad="NOTSET", pads=[1, 1, 1, 1]) == padding(auto_pad="", pads=[1, 1, 1, 1]) == (1, 1, 1, 1)
    assert padding(auto_pad="VALID", pads=[1, 1, 1, 1]) == padding(auto_pad="VALID") == (0, 0, 0, 0)
    words = "n: auto_pad b'SAME_UPPER' is not supported when the stride is over 1"
    assert refused(conv(auto_pad="SAME_UPPER", strides=[2, 2])) == words
    assert refused(conv(auto_pad="SAME_UPPER"), w=np.ones((8, 3, 4, 4), np.float32)) == words
    five = only(conv(auto_pad="SAME_UPPER"), w=np.ones((8, 3, 5, 5), np.float32))
    assert five.padding == (2, 2, 2, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (conv(dilations=[1, 2]), "a dilated convolution is not a layer of AlexNet-like networks"),
        (conv(kernel_shape=[5, 5]), "a dilated convolution is not a layer of AlexNet-like networks"),
        (conv(strides=[1, 2]), "expected two equal strides, got (1, 2)"),
        (conv(strides=[0, 0]), "expected two equal strides, got (0, 0)"),
        (conv(strides=[1, 1, 1]), "expected two equal strides, got (1, 1, 1)"),
        (conv(pads=[1, 1]), "expected four pads of 0 or more, got (1, 1)"),
        (conv(pads=[0, 0, 0, -1]), "expected four pads of 0 or more, got (0, 0, 0, -1)"),
        (conv(strides=[1.0, 1.0]), "strides is not a list of integers"),
        (conv(strides=1), "strides is not a list of integers"),
        (conv(group=1.0), "group is not an integer"),
        (conv(group="1"), "group is not a number"),
        (conv(["x", "fc"]), "expected convolution weights of 4 dimensions, got shape (4, 2)"),
        (conv(["x", "whole"]), "whole does not hold floats"),
        (conv(["x"]), "input 1 of Conv is not a constant"),
        (conv(["x", ""]), "input 1 of Conv is not a constant"),
        (conv(["x", "x"]), "input 1 of Conv is not a constant"),
        (conv(["x", "w", "x"]), "input 2 of Conv is not a constant"),
        (conv(["w", "x"]), "Conv takes the previous layer's output as an input other than its first"),
        (node("Sigmoid", ["x"], ["y"], "n"), "Sigmoid is not a layer of AlexNet-like networks"),
        (node("Flatten", ["x"], ["y"], "n", axis=2), "flattens from another axis than the channels'"),
        (node("Flatten", ["x"], ["y"], "n", axis=0), "flattens from another axis than the channels'"),
    ],
)
def test_another_layer_is_refused(made: onnx.NodeProto, words: str) -> None:
    assert refused(made) == f"n: {words}"


@pytest.mark.parametrize(("op", "function"), [("MaxPool", "max"), ("AveragePool", "average")])
def test_a_pooling_is_read_with_its_defaults(op: str, function: str) -> None:
    def pool(**attributes: object) -> onnx.NodeProto:
        return node(op, ["x"], ["y"], "n", **attributes)

    plain = Pool(name="n", function=function, kernel=3, stride=1)  # type: ignore[arg-type]
    assert only(pool(kernel_shape=[3, 3])) == plain
    assert only(pool(kernel_shape=[3, 3], ceil_mode=0, count_include_pad=0, dilations=[1, 1])) == plain
    more = {"strides": [2, 2], "pads": [0, 1, 2, 3], "ceil_mode": 1, "count_include_pad": 1}
    assert only(pool(kernel_shape=[2, 2], **more)) == Pool(
        name="n",
        function=function,  # type: ignore[arg-type]
        kernel=2,
        stride=2,
        padding=(0, 1, 2, 3),
        round_up=True,
        counts_padding=True,
    )
    for attributes in ({}, {"kernel_shape": [3, 2]}, {"kernel_shape": [3]}, {"kernel_shape": [3, 3, 3]}):
        assert refused(pool(**attributes)).startswith("n: expected square windows without dilation, got (")
    assert refused(pool(kernel_shape=[3, 3], dilations=[2, 2])).startswith("n: expected square windows without")


def test_fully_connected_layers() -> None:
    def gemm(*inputs: str, **attributes: object) -> onnx.NodeProto:
        return node("Gemm", ["x", *inputs], ["y"], "n", **attributes)

    assert only(gemm("fc", "fcb", transB=1)) == Connect(name="n", weight="fc", bias="fcb", layout="OI")
    assert only(gemm("fc", "fcb", transB=0, alpha=1.0, beta=1.0, transA=0)) == only(gemm("fc", "fcb"))
    assert only(gemm("fc")) == only(gemm("fc", "")) == Connect(name="n", weight="fc", bias=None, layout="IO")
    assert only(node("MatMul", ["x", "fc"], ["y"], "n")) == Connect(name="n", weight="fc", bias=None, layout="IO")
    for attributes in ({"alpha": 0.5}, {"beta": 0.0}, {"transA": 1}):
        words = "n: a Gemm with alpha, beta or a transposed input is not supported"
        assert refused(gemm("fc", "fcb", **attributes)) == words


def test_an_addition_is_the_bias_of_the_layer_before_it() -> None:
    product = node("MatMul", ["x", "fc"], ["p"], "m")
    for inputs in (["p", "fcb"], ["fcb", "p"]):
        found = chain(product, node("Add", inputs, ["y"], "n"))
        assert found.layers == [Connect(name="m", weight="fc", bias="fcb", layout="IO")]
    row = chain(product, node("Add", ["p", "row"], ["y"], "n"), row=np.ones((1, 2), np.float32))
    assert row.tensors["row"].shape == (2,)
    plain = node("Conv", ["x", "w"], ["p"], "c")
    planes = chain(plain, node("Add", ["p", "planes"], ["y"], "n"), planes=np.ones((1, 8, 1, 1), np.float32))
    assert planes.layers == [Convolve(name="c", weight="w", bias="planes", layout="OIHW")]
    assert planes.tensors["planes"].shape == (8,)


def test_another_addition_is_refused() -> None:
    add = node("Add", ["p", "fcb"], ["y"], "n")
    words = "n: an Add is supported only as the bias of the layer before it"
    assert refused(node("Relu", ["x"], ["p"]), add) == words
    assert refused(node("Gemm", ["x", "fc", "fcb"], ["p"]), add) == words
    assert refused(node("Add", ["x", "fcb"], ["y"], "n")) == words
    assert refused(node("MatMul", ["x", "fc"], ["p"]), node("Add", ["p", "p"], ["y"], "n")).endswith("not a constant")
    shape = "n: expected one bias per output, got shape "
    square = np.ones((2, 2), np.float32)
    product = node("MatMul", ["x", "fc"], ["p"])
    assert refused(product, node("Add", ["p", "odd"], ["y"], "n"), odd=square) == f"{shape}(2, 2)"
    assert refused(product, node("Add", ["p", "odd"], ["y"], "n"), odd=square.reshape(4, 1)) == f"{shape}(4, 1)"
    plain = node("Conv", ["x", "w"], ["p"])
    assert refused(plain, node("Add", ["p", "b"], ["y"], "n")) == f"{shape}(8,)"
    assert refused(plain, node("Add", ["p", "odd"], ["y"], "n"), odd=square) == f"{shape}(2, 2)"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("Relu", ["x"], ["y"], "n"), Activate(name="n", function="relu")),
        (node("Tanh", ["x"], ["y"], "n"), Activate(name="n", function="tanh")),
        (node("GlobalAveragePool", ["x"], ["y"], "n"), AdaptivePool(name="n", size=1)),
        (node("Softmax", ["x"], ["y"], "n"), Softmax(name="n")),
        (node("Flatten", ["x"], ["y"], "n"), Unroll(name="n", order="CHW")),
        (node("Flatten", ["x"], ["y"], "n", axis=1), Unroll(name="n", order="CHW")),
        (node("Flatten", ["x"], ["y"], "n", axis=-3), Unroll(name="n", order="CHW")),
        (node("Reshape", ["x", "to"], ["y"], "n"), Unroll(name="n", order="CHW")),
        (node("Squeeze", ["x"], ["y"], "n"), Unroll(name="n", order="CHW")),
        (node("Dropout", ["x"], ["y"], "n"), Drop(name="n", probability=0.5)),
        (node("Dropout", ["x"], ["y"], "n", ratio=0.25), Drop(name="n", probability=0.25)),
        (node("Dropout", ["x", "ratio"], ["y"], "n"), Drop(name="n", probability=0.75)),
        (node("Dropout", ["x", "to"], ["y"], "n"), Drop(name="n", probability=0.5)),
        (
            node("LRN", ["x"], ["y"], "n", size=5),
            Normalise(
                name="n",
                size=5,
                alpha=pytest.approx(1e-4),
                alpha_is_divided=True,
                beta=0.75,
                k=1.0,  # type: ignore
            ),
        ),
        (
            node("LRN", ["x"], ["y"], "n", size=3, alpha=0.5, beta=0.25, bias=2.0),
            Normalise(name="n", size=3, alpha=0.5, alpha_is_divided=True, beta=0.25, k=2.0),
        ),
        (
            node("BatchNormalization", ["x", "s", "t", "m", "v"], ["y"], "n", epsilon=0.5),
            Scale(name="n", scale="s", shift="t", mean="m", variance="v", epsilon=0.5),
        ),
        (
            node("BatchNormalization", ["x", "s", "t", "m", "v"], ["y"], "n"),
            Scale(name="n", scale="s", shift="t", mean="m", variance="v", epsilon=1e-5),
        ),
    ],
)
def test_a_layer_is_read_with_its_defaults(made: onnx.NodeProto, expected: SourceLayer) -> None:
    constants = {name: np.ones(8, np.float32) for name in "stmv"}
    constants |= {"to": np.array([0, -1]), "ratio": np.array(0.75, np.float32)}
    assert only(made, **constants) == expected


def test_nodes_that_change_nothing_are_passed() -> None:
    found = chain(node("Identity", ["x"], ["p"]), node("Shape", ["p"], ["s"]), node("Relu", ["p"], ["y"], "n"))
    assert found.layers == [Activate(name="n", function="relu")]
    # A node without a name is called after its output.
    assert chain(node("Relu", ["x"], ["y"])).layers == [Activate(name="y", function="relu")]


def test_what_is_not_a_chain_is_refused_by_name() -> None:
    one, two = node("Relu", ["x"], ["y"], "one"), node("Tanh", ["x"], ["z"], "two")
    assert refused(one, two) == "two: Tanh reads the same value as one: not a chain"
    assert refused(node("Relu", ["x"], ["z"], "one")) == "z: no node reads it, and it is not the output"
