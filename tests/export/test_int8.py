import functools

import msgspec
import numpy as np
import onnx
import pytest
from graphs import RESTS, constants_of, int8_graph, nodes_of, quantization_of, types_in
from hypothesis import given
from hypothesis import strategies as st
from networks import narrowed, separating_weights, with_tensor
from onnx import TensorProto

from alexnet_deploy.core.bundle.quantization import MAX_LEVEL, WEIGHT_LEVEL
from alexnet_deploy.core.bundle.vocabulary import Precision, Rest
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.graph import GraphDesign, build_graph, write_graph
from alexnet_deploy.export.int8 import scales_for, weight_scales

NAMES = [name for name in ARCHITECTURES if name != "tiny"]
PRODUCTS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@functools.cache
def weights_of(name: str) -> Weights:
    return separating_weights(narrowed(ARCHITECTURES[name]))


@functools.cache
def graph_of(name: str, rest: Rest = "fp32") -> onnx.GraphProto:
    return int8_graph(weights_of(name), rest=rest)


def givers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in graph.node for output in node.output}


@pytest.mark.parametrize("name", NAMES)
def test_every_product_takes_int8_and_nothing_else_does(name: str) -> None:
    graph = graph_of(name)
    by_output = givers(graph)
    dequantised = {node.name for node in graph.node if node.op_type == "DequantizeLinear"}
    used = set()
    for node in graph.node:
        taken = {tensor for tensor in node.input if tensor in dequantised}
        if node.name == "fc6":
            # Its input is quantised before Flatten.
            assert list(node.input[:1]) == ["flatten"]
            assert taken == {node.input[1]}
            used |= taken
        elif node.op_type in ("Conv", "Gemm"):
            # Input and weights are int8; the bias is added in float.
            assert taken == set(node.input[:2]), node.name
            used |= taken
        elif node.name == "flatten":
            assert taken == set(node.input) == {"fc6_input_dequantized"}
            used |= taken
        else:
            assert taken == set(), node.name
    assert used == dequantised
    assert [node.name for node in graph.node if node.op_type in ("Conv", "Gemm")] == list(PRODUCTS)
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert by_output[node.input[0]].op_type not in ("QuantizeLinear", "DequantizeLinear")


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("name", NAMES)
def test_zero_point_is_int8_and_0_and_there_is_no_int32(name: str, rest: Rest) -> None:
    graph = graph_of(name, rest)
    constants = constants_of(graph)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            for zero in node.input[2:]:
                assert (constants[zero].dtype, constants[zero].shape, int(constants[zero])) == (np.int8, (), 0)
            assert node.op_type == "DequantizeLinear" or len(node.input) == 3, "without one it would give uint8"
    assert TensorProto.INT32 not in types_in(graph).values()


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_have_a_scale_for_each_output_and_activations_have_one(name: str, rest: Rest) -> None:
    graph = graph_of(name, rest)
    constants, tensors, by_name = constants_of(graph), weights_of(name).tensors, nodes_of(graph)
    for layer in PRODUCTS:
        weight = by_name[f"{layer}_weight_dequantized"]
        assert onnx.helper.get_node_attr_value(weight, "axis") == 0
        steps, scales = (constants[tensor] for tensor in weight.input)
        assert steps.dtype == np.int8
        assert steps.shape == tensors[f"{layer}.weight"].shape
        assert scales.shape == steps.shape[:1]
        # conv1 has twice the level, with even values only: its input is signed.
        step = 2 if layer == "conv1" else 1
        assert (steps % step == 0).all()
        # The largest weight of each output channel is 63, or slightly below if the scale was rounded up.
        largest = np.abs((steps // step).reshape(len(steps), -1).astype(int)).max(axis=1)
        assert largest.max() <= WEIGHT_LEVEL
        assert largest.min() >= WEIGHT_LEVEL - (1 if rest == "fp16" else 0)
        assert constants[f"{layer}.input.scale"].shape == ()


@pytest.mark.parametrize("rest", RESTS)
def test_both_sides_of_a_pair_have_the_very_same_scale(rest: Rest) -> None:
    graph = graph_of("original", rest)
    by_output, by_name = givers(graph), nodes_of(graph)
    moves = ("Slice", "Gather", "Concat", "Reshape")
    for layer in PRODUCTS:
        node = by_name["flatten" if layer == "fc6" else layer]
        dequantise = by_output[node.input[0]]
        above = by_output[dequantise.input[0]]
        while above.op_type in moves:
            above = by_output[above.input[0]]
        assert above.op_type == "QuantizeLinear"
        assert list(above.input[1:]) == list(dequantise.input[1:])


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("name", NAMES)
def test_islands_are_float(name: str, rest: Rest) -> None:
    graph = graph_of(name, rest)
    types = types_in(graph)
    rest_type = TensorProto.FLOAT16 if rest == "fp16" else TensorProto.FLOAT
    for node in graph.node:
        numbers = {types[tensor] for tensor in node.input} & {TensorProto.FLOAT, TensorProto.FLOAT16}
        if node.op_type in ("LRN", "AveragePool", "Pow", "Softmax", "ReduceMean", "Sub"):
            assert numbers == {TensorProto.FLOAT}, node.name
        if node.op_type in ("Conv", "Gemm", "Relu", "MaxPool"):
            assert numbers == {rest_type}, node.name
    assert types["pixels"] == TensorProto.FLOAT
    assert types["views_dequantized"] == rest_type


@pytest.mark.parametrize("rest", RESTS)
def test_image_is_quantised_before_the_views_are_cut(rest: Rest) -> None:
    graph = graph_of("paper", rest)
    types = types_in(graph)
    views = [f"view{index}" for index in range(10)]
    assert {types[name] for name in ("pixels_quantized", "pixels_mirrored", *views, "views")} == {TensorProto.INT8}
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == len(PRODUCTS)
    kept = nodes_of(int8_graph(weights_of("paper"), "conv2", rest=rest))
    assert "pixels_quantized" not in kept
    assert kept["view0"].input[0].startswith("pixels")


@pytest.mark.parametrize("rest", RESTS)
def test_layers_without_a_range_stay_float_bit_for_bit(rest: Rest) -> None:
    weights = weights_of("original")
    graph = int8_graph(weights, "conv2", "fc7", rest=rest)
    constants = constants_of(graph)
    number = np.float16 if rest == "fp16" else np.float32
    for layer in PRODUCTS:
        found = constants[f"{layer}.weight"]
        if layer in ("conv2", "fc7"):
            assert found.dtype == np.int8
        else:
            np.testing.assert_array_equal(found, weights.tensors[f"{layer}.weight"].astype(number), strict=True)
        bias = weights.tensors[f"{layer}.bias"]
        np.testing.assert_array_equal(constants[f"{layer}.bias"], bias.astype(number), strict=True)
    of_layers = {name for name in nodes_of(graph) if name.endswith(("_quantized", "_dequantized"))}
    assert of_layers == {
        f"{layer}_{part}"
        for layer in ("conv2", "fc7")
        for part in ("input_quantized", "input_dequantized", "weight_dequantized")
    }


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_within_half_a_step(name: str, rest: Rest) -> None:
    constants, tensors = constants_of(graph_of(name, rest)), weights_of(name).tensors
    for layer in PRODUCTS:
        original = tensors[f"{layer}.weight"].astype(np.float64)
        scales = constants[f"{layer}.weight.scale"].astype(np.float64).reshape(-1, *[1] * (original.ndim - 1))
        error = np.abs(constants[f"{layer}.weight"] * scales - original)
        step = 2 if layer == "conv1" else 1
        assert (error <= 0.5 * step * scales * (1 + 1e-6)).all()


@pytest.mark.parametrize("rest", RESTS)
def test_output_whose_weights_are_all_0_stays_so(rest: Rest) -> None:
    weights = weights_of("paper")
    values = weights.tensors["conv3.weight"].copy()
    values[2] = 0.0
    constants = constants_of(int8_graph(with_tensor(weights, "conv3.weight", values), "conv3", rest=rest))
    assert not constants["conv3.weight"][2].any()
    assert constants["conv3.weight.scale"][2] == 1.0
    assert constants["conv3.weight"][1].any()


def test_half_s_scales_are_numbers_that_half_holds() -> None:
    weights = weights_of("original")
    graph = graph_of("original", "fp16")
    constants = constants_of(graph)
    ranges = quantization_of(weights).ranges
    for layer in PRODUCTS:
        assert constants[f"{layer}.input.scale"].dtype == np.float16
        assert constants[f"{layer}.weight.scale"].dtype == np.float16
        # Rounded up, so that values within the range stay within it.
        wanted = np.float32(ranges[layer]) / np.float32(MAX_LEVEL)
        found = float(constants[f"{layer}.input.scale"])
        assert wanted <= found <= wanted * (1 + 2**-10)


@pytest.mark.parametrize("rest", RESTS)
def test_layer_that_is_none_is_refused_by_name(rest: Rest) -> None:
    weights = weights_of("paper")
    quantization = quantization_of(weights, "conv2", rest=rest)
    stray = type(quantization)(
        ranges={**quantization.ranges, "relu2": 1.0, "conv9": 1.0}, rest=rest, calibration=quantization.calibration
    )
    with pytest.raises(ExportError, match="conv9, relu2: not a convolution or fully connected layer of this graph"):
        build_graph(weights, views_by_name("ten", 227), "int8", stray)


def test_weights_too_large_for_a_half_scale_are_refused_by_name() -> None:
    weights = weights_of("paper")
    values = weights.tensors["conv4.weight"].copy()
    values[0, 0, 0, 0] = 1e7
    loud = with_tensor(weights, "conv4.weight", values)
    with pytest.raises(ExportError, match=r"conv4\.weight: weights up to 1e\+07 .*float16.*--rest fp32"):
        int8_graph(loud, "conv4", rest="fp16")
    assert np.isfinite(constants_of(int8_graph(loud, "conv4"))["conv4.weight.scale"]).all()


@pytest.mark.parametrize("rest", RESTS)
def test_same_weights_and_ranges_give_the_same_bytes(rest: Rest) -> None:
    weights = weights_of("original")
    quantization, views = quantization_of(weights, rest=rest), views_by_name("ten", 224)
    one, other = (build_graph(weights, views, "int8", quantization).SerializeToString() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("name", NAMES)
def test_contract_and_layers_are_those_of_fp32(name: str) -> None:
    weights = weights_of(name)
    full = build_graph(weights, views_by_name("ten", weights.architecture.input_size)).graph
    for rest in RESTS:
        graph = graph_of(name, rest)
        assert list(graph.input) == list(full.input)
        assert list(graph.output) == list(full.output)
        added = ("_quantized", "_dequantized", "_as_half", "_as_float")
        assert [node.name for node in graph.node if not node.name.endswith(added)] == [node.name for node in full.node]
        assert {tensor.name for tensor in graph.initializer} == {
            tensor for node in graph.node for tensor in node.input
        } - {output for node in graph.node for output in node.output} - {"images"}


# Values whose 127th part is a normal float32 number.
MAGNITUDES = st.floats(2.0**-110, 2.0**127, width=32)


@given(MAGNITUDES)
def test_float_scale_makes_the_largest_127(largest: float) -> None:
    scale = scales_for(np.array(largest, dtype=np.float32), "fp32", MAX_LEVEL)
    assert scale.dtype == np.float32
    assert np.rint(np.float32(largest) / scale) == MAX_LEVEL
    assert float(scale) == pytest.approx(largest / MAX_LEVEL, rel=1e-6)


@given(st.floats(0.0, 127 * 65504.0, width=32, exclude_min=True, allow_subnormal=False))
def test_half_scale_is_the_least_half_that_cuts_nothing(largest: float) -> None:
    scale = scales_for(np.array(largest, dtype=np.float32), "fp16", MAX_LEVEL)
    half = scale.astype(np.float16)
    assert half == scale, "float16 holds it"
    assert float(scale) * MAX_LEVEL >= largest * (1 - 2**-23)
    below = np.nextafter(half, np.float16(0))
    assert float(below) * MAX_LEVEL < largest * (1 + 2**-23)


@given(st.floats(127 * 65520.0, 2.0**127, width=32))
def test_half_has_no_scale_for_what_is_too_large(largest: float) -> None:
    assert scales_for(np.array(largest, dtype=np.float32), "fp16", MAX_LEVEL) == np.inf


@given(st.lists(st.lists(st.integers(-(10**6), 10**6), min_size=3, max_size=3), min_size=1, max_size=4))
def test_weight_scales_are_of_each_output_alone(rows: list[list[int]]) -> None:
    weights = np.array(rows, dtype=np.float32) / np.float32(1000)
    for rest in RESTS:
        together = weight_scales(weights, rest, WEIGHT_LEVEL)
        assert together.shape == (len(rows),)
        np.testing.assert_array_equal(
            together, np.concatenate([weight_scales(row[None], rest, WEIGHT_LEVEL) for row in weights])
        )
        assert (together > 0).all()
        assert (together * WEIGHT_LEVEL * (1 + 1e-6) >= np.abs(weights).max(axis=1)).all()


@pytest.mark.parametrize("rest", RESTS)
def test_older_bundles_have_eight_bit_weights(rest: Rest) -> None:
    """A manifest without a weight_level gives the graph of that older version."""
    weights = weights_of("original")
    older = quantization_of(weights, rest=rest, weight_level=MAX_LEVEL)
    encoded = msgspec.json.decode(msgspec.json.encode(older))
    del encoded["weight_level"]
    assert msgspec.convert(encoded, type(older)) == older
    constants = constants_of(build_graph(weights, views_by_name("ten", 224), "int8", older).graph)
    for layer in PRODUCTS:
        largest = np.abs(constants[f"{layer}.weight"].astype(int)).reshape(len(constants[f"{layer}.weight"]), -1).max(1)
        assert largest.max() <= MAX_LEVEL
        assert largest.min() >= MAX_LEVEL - (1 if rest == "fp16" else 0)


@pytest.mark.parametrize("level", [0, -63, 128])
def test_weight_level_that_int8_does_not_have_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"weight_level must be 1 to 127, got {level}"):
        quantization_of(weights_of("paper"), weight_level=level)


def test_fc6_is_quantised_right_behind_pool5() -> None:
    """OpenCV 5 can fuse them only in this order; layout 1 keeps the order of older bundles."""
    by_name = nodes_of(graph_of("paper"))
    assert list(by_name["fc6_input_quantized"].input[:1]) == ["pool5"]
    weights = weights_of("paper")
    design = GraphDesign(
        architecture=weights.architecture,
        preprocessing=weights.preprocessing,
        views=views_by_name("ten", 227),
        precision="int8",
        quantization=quantization_of(weights),
        layout=1,
    )
    older = write_graph(design, weights.tensors)
    by_name = nodes_of(older)
    assert list(by_name["fc6_input_quantized"].input[:1]) == ["flatten"]
    assert list(by_name["fc6"].input[:1]) == ["fc6_input_dequantized"]
    assert list(by_name["flatten"].input) == ["pool5"]


def test_layer_behind_flatten_that_stays_float_leaves_it_alone() -> None:
    by_name = nodes_of(int8_graph(weights_of("paper"), "fc7"))
    assert list(by_name["flatten"].input) == ["pool5"]
    assert list(by_name["fc7"].input[:1]) == ["fc7_input_dequantized"]


@pytest.mark.parametrize(
    ("precision", "rest", "expected"),
    [("fp32", None, (17, 8)), ("fp16", None, (17, 8)), ("int8", "fp32", (17, 8)), ("int8", "fp16", (19, 9))],
)
def test_only_half_scales_ask_for_opset_19(precision: Precision, rest: Rest | None, expected: tuple[int, int]) -> None:
    weights = weights_of("original")
    quantization = None if rest is None else quantization_of(weights, rest=rest)
    model = build_graph(weights, views_by_name("ten", 224), precision, quantization)
    assert (model.opset_import[0].version, model.ir_version) == expected
    if rest == "fp16":
        model.opset_import[0].version = 18
        with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
            onnx.checker.check_model(model, full_check=True)
