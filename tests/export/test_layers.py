"""Tanh, average pools and padded pools through the graph, its guard, its audit and the engines."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
from graphs import RESTS, answers, quantization_of, source_of, types_in
from networks import separating_weights, shipped

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.plans import PlanOptions, Profile
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.bundle.vocabulary import Precision, Rest
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Relu,
    SpatialNorm,
    Tanh,
)
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.graph_guard import graph_problems
from alexnet_deploy.engines.proof.faults import planted_faults
from alexnet_deploy.engines.proof.parity import INT8_TIE, shortfalls
from alexnet_deploy.engines.proof.tolerances import int8_graph_tolerance
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.engines.tensorrt.build import build_plan
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph
from alexnet_deploy.export.reference import exact_answers
from alexnet_deploy.pipeline.check import check

TABLE = Architecture(
    name="own",
    input_size=123,
    layers=(
        Conv(name="conv1", out_channels=8, kernel=11, stride=4),
        Tanh(name="tanh1"),
        SpatialNorm(name="norm1", size=5, alpha=1e-3, beta=0.75, k=1.0),
        AveragePool(name="pool1", kernel=3, stride=2),
        Conv(name="conv2", out_channels=12, kernel=2),
        Relu(name="relu2"),
        MaxPool(name="pool2", padding=(0, 1, 1, 0), kernel=2, stride=1),
        AveragePool(name="pool3", padding=(1, 0, 0, 1), kernel=2, stride=1, counts_padding=True),
        AveragePool(name="pool4", padding=(0, 1, 1, 0), kernel=2, stride=1),
        AdaptiveAveragePool(name="pool5", size=6),
        Flatten(name="flatten"),
        Linear(name="fc6", out_features=16),
        Tanh(name="tanh6"),
        Linear(name="fc8", out_features=4),
    ),
)
NAMED_BY_THE_AUDIT = {
    "tanh taken for ReLU": "tanh1: is Relu, the table says Tanh",
    "maximum taken for average": "pool1: is MaxPool, the table says AveragePool",
    "pooling padded on the other side": "pool2: pads is [1, 0, 0, 1], the table says [0, 1, 1, 0]",
    "padding of an average counted otherwise": "pool3: count_include_pad is None, the table says 1",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    return shipped(separating_weights(TABLE), tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_engine_agrees(precision: Precision, tmp_path: Path) -> None:
    loaded, bundle = shipped(separating_weights(TABLE), tmp_path, precision=precision)
    result = check(bundle, weights=loaded)
    assert result.passed
    assert {row.backend for row in result.rows} == {"torch", *BACKENDS}
    assert max(row.max_error for row in result.rows if row.precision == "fp32") <= 1e-5


@pytest.mark.parametrize("rest", RESTS)
def test_every_engine_runs_the_int8_graph_as_it_says(rest: Rest) -> None:
    weights, images = separating_weights(TABLE), golden_images()
    source = source_of(weights, views_by_name("ten", TABLE.input_size), "int8", quantization_of(weights, rest=rest))
    own = exact_answers(source.data, images)
    for backend in BACKENDS:
        assert shortfalls(own, answers(source, backend, images), int8_graph_tolerance(10), INT8_TIE) == ()


def test_average_pools_are_those_of_the_table_and_its_spatial_norm(own: tuple[LoadedWeights, Bundle]) -> None:
    graph = onnx.load_model_from_string(own[1].read(GRAPH)).graph
    nodes = Counter(node.op_type for node in graph.node)
    assert (nodes["AveragePool"], nodes["Tanh"], nodes["MaxPool"]) == (5, 2, 1)


def test_an_average_pool_that_the_table_does_not_have_is_found(own: tuple[LoadedWeights, Bundle]) -> None:
    """A decomposed normalisation brings one."""
    manifest = own[1].manifest
    model = onnx.load_model_from_string(own[1].read(GRAPH))
    (relu,) = (node for node in model.graph.node if node.name == "relu2")
    relu.op_type = "AveragePool"
    relu.attribute.append(onnx.helper.make_attribute("kernel_shape", [1, 1]))
    data = model.SerializeToString()
    assert "relu2: is AveragePool, the table says Relu" in audit_graph(data, manifest, own[0].weights.labels)
    problems = list(graph_problems(data, manifest))
    assert "relu2: is AveragePool, the table says Relu" in problems
    assert "6 nodes are AveragePool, the table says 5" in problems


def test_tanh_is_half_and_average_pools_are_float() -> None:
    graph = build_graph(separating_weights(TABLE), views_by_name("center", TABLE.input_size), "fp16").graph
    types = types_in(graph)
    for node in graph.node:
        numbers = {types[name] for name in node.input} & {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
        if node.op_type == "Tanh":
            assert numbers == {onnx.TensorProto.FLOAT16}
        if node.op_type == "AveragePool":
            assert numbers == {onnx.TensorProto.FLOAT}


@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_nvidia_s_parser_and_builder_take_every_layer(precision: Precision) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the TensorRT-RTX libraries are not installed")
    weights = separating_weights(TABLE)
    quantization = quantization_of(weights) if precision == "int8" else None
    source = source_of(weights, views_by_name("center", TABLE.input_size), precision, quantization)
    built = build_plan(source.data, "tensorrt-rtx", Profile(max_batch=8), PlanOptions())
    assert (built.record.target, built.record.proof) == ("aot", "pending")


@pytest.mark.parametrize("name", NAMED_BY_THE_AUDIT)
def test_a_planted_fault_is_felt_ten_times_over_and_named(name: str, own: tuple[LoadedWeights, Bundle]) -> None:
    loaded, bundle = own
    assert open_bundle(bundle.path).manifest.golden.separation[name] >= 10
    manifest = bundle.manifest
    faulty = dict(planted_faults(Subject(weights=loaded.weights, views=manifest.views.crops)))[name]
    graph = encode_graph(build_graph(faulty.weights, faulty.views), facts_for_graph(manifest, loaded.weights.labels))
    assert NAMED_BY_THE_AUDIT[name] in audit_graph(graph, manifest, loaded.weights.labels)
    assert NAMED_BY_THE_AUDIT[name] in list(graph_problems(graph, manifest))
