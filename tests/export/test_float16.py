import io
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import types_in
from networks import narrowed, republished, separating_weights, shipped, with_tensor
from onnx import TensorProto, numpy_helper
from proofs import whole_proofs

from alexnet_deploy.core.errors import ExportError, ParityError
from alexnet_deploy.core.model.architecture import Conv, Linear
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.export.graph import build_graph
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.pipeline.export import ExportRequest, export

NAMES = [name for name in ARCHITECTURES if name != "tiny"]


def half_graph(name: str) -> onnx.GraphProto:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    return build_graph(weights, views_by_name("ten", weights.architecture.input_size), "fp16").graph


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_half_and_islands_are_float(name: str) -> None:
    graph = half_graph(name)
    types = types_in(graph)
    for node in graph.node:
        numbers = {types[tensor] for tensor in node.input} & {TensorProto.FLOAT, TensorProto.FLOAT16}
        if node.op_type in ("Conv", "Gemm", "Relu", "MaxPool"):
            assert numbers == {TensorProto.FLOAT16}, node.name
        if node.op_type in ("LRN", "AveragePool", "Pow", "Softmax", "ReduceMean", "Sub"):
            assert numbers == {TensorProto.FLOAT}, node.name
    assert types["views"] == TensorProto.FLOAT16
    assert types["pixels"] == TensorProto.FLOAT


@pytest.mark.parametrize("name", NAMES)
def test_contract_and_layers_are_those_of_fp32(name: str) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    views = views_by_name("ten", weights.architecture.input_size)
    half, full = (build_graph(weights, views, precision).graph for precision in ("fp16", "fp32"))  # type: ignore[arg-type]
    assert list(half.input) == list(full.input)
    assert list(half.output) == list(full.output)
    assert [node.name for node in half.node if "_as_" not in node.name] == [node.name for node in full.node]
    assert {node.op_type for node in half.node if "_as_" in node.name} == {"Cast"}


@pytest.mark.parametrize("name", NAMES)
def test_half_is_proved_and_half_as_large(name: str, tmp_path: Path) -> None:
    # The authors' own structure has every layer of the family; its proof is whole.
    with whole_proofs() if name == "original" else nullcontext():
        loaded, bundle = shipped(separating_weights(narrowed(ARCHITECTURES[name])), tmp_path, precision="fp16")
    assert bundle.manifest.precision == "fp16"
    result = check(bundle, weights=loaded)
    assert result.passed
    assert {row.backend for row in result.rows} == {"torch", *BACKENDS}
    table = loaded.weights.architecture
    sizes = [tensor.ByteSize() for tensor in half_graph(name).initializer if tensor.name in table.tensor_shapes()]
    assert sum(sizes) < 2 * table.num_parameters + 100 * len(sizes)
    # The rounding is visible: this is not the FP32 graph under another name.
    assert all(row.max_error > 1e-5 for row in result.rows if row.precision == "fp16")
    assert {row.backend for row in result.rows if row.precision == "fp16"} == set(BACKENDS)
    # The trained network and its FP32 graph are not rounded.
    assert all(row.max_error <= 1e-5 for row in result.rows if row.precision == "fp32")


def test_every_weight_is_the_nearest_half(weights: Weights) -> None:
    graph = build_graph(weights, views_by_name("ten", 224), "fp16").graph
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for layer in weights.architecture.layers:
        if isinstance(layer, Conv | Linear):
            np.testing.assert_array_equal(
                found[f"{layer.name}.weight"], weights.tensors[f"{layer.name}.weight"].astype(np.float16)
            )


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_constant_outside_half_s_range_is_refused_by_name(weights: Weights, value: float) -> None:
    bias = weights.tensors["conv4.bias"].copy()
    bias[0] = value
    with pytest.raises(ExportError, match=r"conv4\.bias: .* is outside float16's range"):
        build_graph(with_tensor(weights, "conv4.bias", bias), views_by_name("ten", 224), "fp16")


def test_network_whose_activations_overflow_half_is_not_published(weights: Weights, tmp_path: Path) -> None:
    """Activations of 1e6 after conv1: each weight fits float16, their sums do not."""
    scaled = {
        **weights.tensors,
        "conv3.weight": weights.tensors["conv3.weight"] * np.float32(1e6),
        "conv4.weight": weights.tensors["conv4.weight"] * np.float32(1e-6),
    }
    loud = replace(weights, tensors={**scaled, "conv3.bias": weights.tensors["conv3.bias"] * np.float32(1e6)})
    (tmp_path / "fp32").mkdir()
    loaded, bundle = shipped(loud, tmp_path / "fp32")
    assert check(bundle, weights=loaded).passed
    with pytest.raises((ParityError, ExportError)):
        export(loaded, tmp_path / "half.bundle", ExportRequest(precision="fp16"))
    assert not (tmp_path / "half.bundle").exists()


def test_half_island_that_was_removed_is_found_by_name(weights: Weights, tmp_path: Path) -> None:
    loaded, bundle = shipped(weights, tmp_path, precision="fp16")
    model = onnx.load_model(io.BytesIO(bundle.read("model.onnx")))
    (norm,) = (node for node in model.graph.node if node.name == "norm2_split")
    norm.input[0] = "relu2"
    faulty = republished(bundle, tmp_path / "faulty.bundle", {"model.onnx": model.SerializeToString()})
    from alexnet_deploy.export.audit import audit_graph

    problems = audit_graph(faulty.read("model.onnx"), bundle.manifest, bundle.labels, loaded.weights.tensors)
    assert any(problem.startswith("norm2_split: its inputs are relu2") for problem in problems)


@pytest.mark.rtx
@pytest.mark.parametrize("name", NAMES)
def test_nvidia_s_builder_makes_a_plan_of_it(name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    model = build_graph(weights, views_by_name("ten", weights.architecture.input_size), "fp16")
    assert parser.parse(model.SerializeToString()), [str(parser.get_error(n)) for n in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("images", (1, 256, 256, 3), (8, 256, 256, 3), (16, 256, 256, 3))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 2 * weights.architecture.num_parameters


def test_numbers_that_half_does_not_hold_are_refused_though_no_cpu_shows_them(tmp_path: Path) -> None:
    """One channel of conv3 scaled up a million times and its consumer scaled down by the same: the same function."""
    weights = separating_weights(narrowed(ARCHITECTURES["single_tower"]))
    tensors = {name: values.copy() for name, values in weights.tensors.items()}
    for name in ("conv3.weight", "conv3.bias"):
        tensors[name][5] *= 2.0**20
    tensors["conv4.weight"][:, 5] /= 2.0**20
    loud = replace(weights, tensors=tensors)
    with pytest.raises(ExportError, match=r"conv3: outputs reach .* on the golden images, float16 holds at most 65504"):
        shipped(loud, tmp_path, precision="fp16")
    assert shipped(loud, tmp_path, precision="fp32")[1].manifest.parity[0].passed
