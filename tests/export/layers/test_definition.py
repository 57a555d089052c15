"""ONNX's definition of the operators, against ONNX Runtime with nothing fused."""

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import nodes_of, quantization_of
from onnx import helper

from alexnet_deploy.core.bundle.contract import IMAGES, PROBABILITIES, output_of
from alexnet_deploy.core.bundle.layout import PIXELS, SOFTMAX, VIEWS
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.views import View, views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.graph import build_graph
from alexnet_deploy.export.layers.definition import Definition
from alexnet_deploy.export.layers.taps import Step, steps_of, with_steps
from alexnet_deploy.export.reference import exact_answers


def two_views(weights: Weights) -> tuple[View, ...]:
    views = views_by_name("ten", weights.architecture.input_size)
    return (views[1], views[-1])


def graph_in(weights: Weights, precision: Precision) -> onnx.ModelProto:
    quantization = quantization_of(weights) if precision == "int8" else None
    return build_graph(weights, two_views(weights), precision, quantization)


# Measured: 1.2e-7, 1.3e-4, 4e-7.
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("fp16", 1e-3), ("int8", 1e-3)])
def test_whole_graph_by_definition(precision: Precision, bound: float, weights: Weights) -> None:
    """Columns of LRN, spatial norm, uneven padding, groups, mirrored views."""
    model = graph_in(weights, precision)
    images = golden_images()[:1]
    expected = exact_answers(model.SerializeToString(), images)
    found = Definition(model.graph, rounds=True).value_of(PROBABILITIES, {IMAGES: images})
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= bound


UNEVEN = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 1]}


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("AveragePool", ["x"], ["y"], **UNEVEN),
        helper.make_node("AveragePool", ["x"], ["y"], **UNEVEN, count_include_pad=1),
        helper.make_node("MaxPool", ["x"], ["y"], **UNEVEN),
        helper.make_node("Tanh", ["x"], ["y"]),
        helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=0.75, bias=2.0),
        helper.make_node("LRN", ["x"], ["y"], size=15, alpha=0.5, beta=0.75, bias=2.0),
    ],
    ids=lambda node: f"{node.op_type}-{len(node.attribute)}",
)
def test_operator_by_definition(node: onnx.NodeProto) -> None:
    x = np.random.default_rng(1).normal(-1.0, 1.0, (2, 6, 11, 13)).astype(np.float32)
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "one", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["y"], {"x": x})
    found = Definition(graph, rounds=False).value_of("y", {"x": x})
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6


def test_float16_is_rounded_or_computed_wider(weights: Weights) -> None:
    model = graph_in(weights, "fp16")
    known = {IMAGES: golden_images()[:1]}
    rounded = Definition(model.graph, rounds=True).value_of("conv1", known)
    wider = Definition(model.graph, rounds=False).value_of("conv1", known)
    assert np.array_equal(rounded, rounded.astype(np.float16))
    assert 0 < np.abs(rounded - wider).max() < 1e-3 * np.abs(wider).max()


# Steps


def steps_in(weights: Weights, precision: Precision) -> dict[str, Step]:
    return {
        step.name: step
        for step in steps_of(graph_in(weights, precision).graph, weights.architecture, output_of(weights.architecture))
    }


def test_each_step_ends_behind_what_belongs_to_it(weights: Weights) -> None:
    steps = steps_in(weights, "fp32")
    assert list(steps)[:6] == ["to_float", "channels_first", "subtract_mean", PIXELS, VIEWS, "conv1"]
    assert list(steps)[-3:] == ["fc8", SOFTMAX, PROBABILITIES]
    assert "drop6" not in steps
    # Columns are joined again.
    assert steps["norm1"].value == "norm1_join"
    numbers = {name: step.numbers for name, step in steps.items()}
    moved = {name for name, kind in numbers.items() if kind == "exact"}
    assert {"to_float", VIEWS, "pool1", "relu1", "flatten"} <= moved
    assert numbers["conv1"] == numbers["norm1"] == numbers[SOFTMAX] == "float32"


def test_steps_of_int8_end_in_floats(weights: Weights) -> None:
    steps = steps_in(weights, "int8")
    # The image is quantised before the views are cut, fc6's input before it is flattened.
    assert steps[VIEWS].value == f"{VIEWS}_dequantized"
    quantised = {name for name, step in steps.items() if step.numbers == "int8"}
    assert quantised == {VIEWS, "conv2", "conv3", "conv4", "conv5", "flatten", "fc7", "fc8"}


def test_halves_are_returned_as_the_engine_has_them(weights: Weights) -> None:
    model = graph_in(weights, "fp16")
    steps = steps_of(model.graph, weights.architecture, output_of(weights.architecture))
    copy = with_steps(model, steps)
    assert [output.name for output in copy.graph.output] == [PROBABILITIES, *(step.output for step in steps[:-1])]
    nodes = nodes_of(copy.graph)
    for step in steps:
        is_half = step.numbers == "float16"
        assert step.output == (f"{step.value}_wide" if is_half else step.value)
        assert (nodes[step.output].op_type == "Cast" and step.output != step.value) == is_half
    # The graph itself is unchanged.
    assert len(model.graph.output) == 1
    onnx.shape_inference.infer_shapes(copy, strict_mode=True)
