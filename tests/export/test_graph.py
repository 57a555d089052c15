import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import narrowed, separating_weights
from onnx import numpy_helper

from alexnet_deploy.core.bundle.layout import PIXELS
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.model.architecture import LocalNorm, SpatialNorm
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import preprocess
from alexnet_deploy.core.model.preprocessing import ChannelOrder, Preprocessing
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export import graph as graph_module
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.graph import build_graph, encode_graph

NAMES = [name for name in ARCHITECTURES if name != "tiny"]


def graph_of(name: str, views: str = "ten") -> onnx.ModelProto:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    return build_graph(weights, views_by_name(views, weights.architecture.input_size))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_stays_native(name: str) -> None:
    table = ARCHITECTURES[name]
    nodes = Counter(node.op_type for node in graph_of(name).graph.node)
    assert nodes["LRN"] == sum(isinstance(layer, LocalNorm) for layer in table.layers)
    assert nodes["AveragePool"] == nodes["Pow"] == sum(isinstance(layer, SpatialNorm) for layer in table.layers)
    assert nodes["Pad"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_called_what_the_layers_are_and_stand_in_their_order(name: str) -> None:
    names = [node.name for node in graph_of(name).graph.node]
    layers = [layer.name for layer in ARCHITECTURES[name].layers if not layer.name.startswith("drop")]
    assert [node for node in names if node in layers] == layers
    assert all(node.output[0] == node.name for node in graph_of(name).graph.node)


@pytest.mark.parametrize("name", NAMES)
def test_contract_is_images_in_and_probabilities_out(name: str) -> None:
    graph = graph_of(name).graph
    ((images,), (probabilities,)) = (graph.input, graph.output)
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["N", 256, 256, 3]
    assert probabilities.name == "probabilities"
    assert probabilities.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim] == ["N", 4]


def test_images_go_straight_into_a_cast() -> None:
    # TensorRT accepts uint8 only in this way.
    takers = [node.op_type for node in graph_of("paper").graph.node if "images" in node.input]
    assert takers == ["Cast"]


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("views", ["ten", "center"])
def test_any_batch_gives_what_each_image_gives_alone(batch: int, views: str) -> None:
    session = onnxruntime.InferenceSession(encode_graph(graph_of("original", views), {}))
    images = np.random.default_rng(0).integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8)
    (together,) = session.run(None, {"images": images})
    alone = [session.run(None, {"images": image[None]})[0][0] for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1.0, atol=1e-6)


def test_views_in_the_graph_are_those_of_numpy() -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["caffe"]))
    views = views_by_name("ten", 227)
    model = build_graph(weights, views)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("views", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    (actual,) = session.run(["views"], {"images": images})
    mean = np.array(weights.preprocessing.mean, dtype=np.float32)[::-1]
    expected = []
    for view in views:
        crop = images[:, view.top : view.top + 227, view.left : view.left + 227, ::-1]
        crop = crop[:, :, ::-1] if view.mirrored else crop
        expected.append((crop.astype(np.float32) - mean).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(actual, np.concatenate(expected))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_mean_and_scale_go_with_their_colours_in_the_graph_and_in_the_network(order: ChannelOrder) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["paper"]))
    mean, scale = (10.0, 20.0, 40.0), (0.5, 1.0, 4.0)
    preprocessing = Preprocessing(resize="warp", channel_order=order, mean=mean, scale=scale)
    model = build_graph(replace(weights, preprocessing=preprocessing), views_by_name("center", 227))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(PIXELS, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    (written,) = session.run([PIXELS], {"images": images})
    expected = ((images - np.float32(mean)) * np.float32(scale)).transpose(0, 3, 1, 2)
    expected = expected if order == "RGB" else expected[:, ::-1]
    np.testing.assert_array_equal(written, expected)
    np.testing.assert_array_equal(preprocess(torch.from_numpy(images), preprocessing).numpy(), expected)


def test_bundle_s_graph_says_what_the_manifest_says(bundle: Bundle) -> None:
    data = bundle.read("model.onnx")
    model = onnx.load_model(io.BytesIO(data))
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert facts["precision"] == '"fp32"'
    assert bundle.manifest.provenance.weights_sha256 in facts["provenance"]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert audit_graph(data, bundle.manifest, bundle.labels) == ()


def test_audit_names_what_is_missing_surplus_or_other(bundle: Bundle) -> None:
    model = onnx.load_model(io.BytesIO(bundle.read("model.onnx")))
    by_name = {node.name: node for node in model.graph.node}
    by_name["relu3"].op_type = "Sigmoid"
    by_name["relu4"].name = "rectifier4"
    by_name["pool5"].input[0] = "relu4"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "surplus"))
    model.graph.output[0].name = "scores"
    problems = audit_graph(model.SerializeToString(), bundle.manifest, bundle.labels)
    assert "relu3: is Sigmoid, the table says Relu" in problems
    assert "relu4: the table's Relu is not in the graph" in problems
    assert "rectifier4: a Relu that the table does not have" in problems
    assert "pool5: its inputs are relu4, the table says conv5" in problems
    assert "surplus: a constant that the table does not have" in problems
    assert "the graph's output does not match the contract" in problems


def older_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 13


def older_format(model: onnx.ModelProto) -> None:
    model.ir_version = 3


def second_mean(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 1, 1), np.float32), "mean"))


def second_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[-1])


def training_step(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.node.append(model.graph.node[0])


def sparse_constant(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(1)


def another_lrn(model: onnx.ModelProto) -> None:
    identity = onnx.helper.make_node("Identity", ["x"], ["y"])
    opsets = [onnx.helper.make_opsetid("", 18)]
    model.functions.append(onnx.helper.make_function("", "LRN", ["x"], ["y"], [identity], opsets))


def reversed_nodes(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def constant_elsewhere(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc6.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (older_opset, "the graph has opset 13 and IR version 8, not 17 and 8"),
        (older_format, "IR version 3"),
        (second_mean, "two constants share a name"),
        (second_node, "two nodes share a name"),
        (another_lrn, "the graph has functions"),
        (training_step, "the graph has functions, training steps"),
        (sparse_constant, "the graph has functions, training steps or sparse constants"),
        (reversed_nodes, "the nodes are not in the table's order"),
        (constant_elsewhere, "fc6.weight: stored outside the graph's file"),
    ],
)
def test_audit_finds_what_gives_the_same_nodes_another_meaning(
    edit: Callable[[onnx.ModelProto], None], problem: str, bundle: Bundle
) -> None:
    model = onnx.load_model_from_string(bundle.read("model.onnx"))
    edit(model)
    problems = audit_graph(model.SerializeToString(), bundle.manifest, bundle.labels)
    assert any(problem in found for found in problems), problems


def test_audit_of_what_is_no_graph_says_so(bundle: Bundle) -> None:
    (problem,) = audit_graph(b"\xff\xff\xff", bundle.manifest, bundle.labels)
    assert "cannot be parsed" in problem


def test_graph_that_the_checker_refuses_is_an_export_error(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "opset_for", lambda *of: (9, 8))
    with pytest.raises(ExportError, match="fails ONNX's checker"):
        build_graph(weights, views_by_name("ten", 224))


@pytest.mark.rtx
@pytest.mark.parametrize("name", NAMES)
def test_nvidia_s_parser_takes_the_graph(name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(encode_graph(graph_of(name), {})), [
        str(parser.get_error(number)) for number in range(parser.num_errors)
    ]
    kinds = Counter(network.get_layer(number).type for number in range(network.num_layers))
    assert kinds[trt.LayerType.LRN] == sum(isinstance(layer, LocalNorm) for layer in ARCHITECTURES[name].layers)
    assert (network.get_input(0).name, network.get_output(0).name) == ("images", "probabilities")


@pytest.mark.parametrize("views", ["ten", "center"])
@pytest.mark.parametrize("name", NAMES)
def test_every_constant_is_used(name: str, views: str) -> None:
    graph = graph_of(name, views).graph
    assert {tensor.name for tensor in graph.initializer} <= {taken for node in graph.node for taken in node.input}


def test_graph_that_one_file_cannot_hold_is_an_export_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module.helper, "set_model_props", lambda model, props: None)
    model = SimpleNamespace(ByteSize=lambda: 2**31, SerializeToString=lambda: b"")
    with pytest.raises(ExportError, match="has 2,147,483,648 bytes, the limit of a protobuf file is 2 GB"):
        encode_graph(model, {})  # type: ignore[arg-type]
    model.ByteSize = lambda: 2**31 - 1
    assert encode_graph(model, {}) == b""  # type: ignore[arg-type]


def test_weights_file_of_any_architecture_makes_a_graph_file(tmp_path: Path) -> None:
    data = encode_graph(graph_of("torchvision"), {"labels": "[]"})
    (tmp_path / "model.onnx").write_bytes(data)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
