"""Helpers that read and modify graphs."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexnet_deploy.core.bundle.contract import output_of
from alexnet_deploy.core.bundle.quantization import WEIGHT_LEVEL, Calibration, Quantization
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.bundle.vocabulary import CalibrationMethod, Precision, Rest
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.views import View, views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.engine import GraphSource, open_graph
from alexnet_deploy.engines.registry import GraphBackend
from alexnet_deploy.export.calibration import gather, ranges_for
from alexnet_deploy.export.graph import build_graph

Edit = Callable[[onnx.ModelProto], None]

RESTS: tuple[Rest, ...] = ("fp32", "fp16")


def types_in(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of every tensor, from ONNX's own inference."""
    (mean,) = (node for node in graph.node if node.op_type == "ReduceMean")
    # Before opset 18 its axes are an attribute.
    opset = 17 if len(mean.input) == 1 else 19
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {info.name: info.type.tensor_type.elem_type for info in infos}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def nodes_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in graph.node}


def set_constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def edited_graph(bundle: Bundle, edit: Edit) -> bytes:
    model = onnx.load_model_from_string(bundle.read(GRAPH))
    edit(model)
    return bytes(model.SerializeToString())


def quantization_of(
    weights: Weights,
    *layers: str,
    rest: Rest = "fp32",
    method: CalibrationMethod = "minmax",
    weight_level: int = WEIGHT_LEVEL,
) -> Quantization:
    """Ranges calibrated on the golden images, of these layers or of all."""
    graph = build_graph(weights, views_by_name("center", weights.architecture.input_size))
    found = ranges_for(graph, gather(graph, [golden_images()]), method)
    return Quantization(
        ranges={layer: largest for layer, largest in found.items() if layer in (layers or found)},
        rest=rest,
        calibration=Calibration(method=method, num_images=8, images_sha256="0" * 64, graph_sha256="0" * 64),
        weight_level=weight_level,
    )


def int8_graph(weights: Weights, *layers: str, rest: Rest = "fp32") -> onnx.GraphProto:
    """The graph of ten views with these layers, or all, in int8."""
    views = views_by_name("ten", weights.architecture.input_size)
    return build_graph(weights, views, "int8", quantization_of(weights, *layers, rest=rest)).graph


def source_of(
    weights: Weights, views: tuple[View, ...], precision: Precision, quantization: Quantization | None = None
) -> GraphSource:
    return GraphSource(
        name=f"a graph of {weights.architecture.name}",
        data=build_graph(weights, views, precision, quantization).SerializeToString(),
        precision=precision,
        output=output_of(weights.architecture),
        num_views=len(views),
    )


def answers(source: GraphSource, backend: GraphBackend, images: np.ndarray) -> np.ndarray:
    with open_graph(source, backend) as engine:
        return engine.run(images)


def scaled(name: str, factor: float) -> Edit:
    """Multiply a constant of the graph."""

    def edit(model: onnx.ModelProto) -> None:
        values = constants_of(model.graph)[name]
        set_constant(model, name, np.asarray(values * values.dtype.type(factor)))

    return edit
