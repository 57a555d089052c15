"""Build the ONNX graph layer by layer from the table: uint8 images in, probabilities or features out.

It contains everything after the resize: channel order, mean and scale, the views and their mirrors, the network,
softmax and the average over the views. So no application can implement these steps differently.

It is not traced from the torch network: both are built independently from the same table, so their agreement is
evidence; and each node has the name of its layer.

N images, V views, C channels, H height, W width, K classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.core.bundle.contract import Output, contract_for, output_of
from alexnet_deploy.core.bundle.layout import LAYOUT, PIXELS, SOFTMAX, VIEWS, opset_for
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Dropout,
    Flatten,
    LayerCost,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    Tanh,
    adaptive_window,
)
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Preprocessing
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.float16 import to_half
from alexnet_deploy.export.int8 import to_int8

MEAN = "mean"
"""The constant that is subtracted from each image: float32 (1, 3, 1, 1), or (1, 3, 256, 256) for a mean image."""
SCALE = "scale"
"""The factors of the channels, float32 (1, 3, 1, 1)."""


@dataclass(slots=True)
class _Writer:
    """Nodes and constants in order; the single output of each node has the node's name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, name: str, inputs: Sequence[str], **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDesign:
    """Everything that a graph is written from, except the trained tensors."""

    architecture: Architecture
    preprocessing: Preprocessing
    views: Sequence[View]
    precision: Precision = "fp32"
    quantization: Quantization | None = None
    """Required for int8, unused otherwise."""
    layout: int = LAYOUT
    output_layer: str | None = None
    """The layer whose features are the output; None for probabilities."""


def write_graph(
    design: GraphDesign, tensors: Mapping[str, np.ndarray], mean_image: np.ndarray | None = None
) -> onnx.GraphProto:
    """Return the graph's nodes and constants, unchecked; see build_graph.

    `mean_image`, float32 (3, 256, 256), is subtracted from images; None for the mean of each channel.
    """
    architecture, views, quantization = design.architecture, design.views, design.quantization
    opset, _ = opset_for(design.precision, quantization, design.layout)
    output = output_of(architecture, design.output_layer)
    contract = contract_for(output)
    writer = _Writer()
    pixels = _write_pixels(writer, contract.input.name, design.preprocessing, mean_image)
    cropped = _write_views(writer, pixels, views, architecture.input_size)
    values = _write_layers(writer, architecture.costs(output.layer), tensors, cropped)
    if output.layer is None:
        values = writer.node("Softmax", SOFTMAX, [values], axis=-1)
    _write_average(writer, values, len(views), output, opset)
    graph = helper.make_graph(
        writer.nodes,
        f"alexnet_{architecture.name}",
        [helper.make_tensor_value_info(contract.input.name, TensorProto.UINT8, list(contract.input.shape))],
        [helper.make_tensor_value_info(contract.output.name, TensorProto.FLOAT, list(contract.output.shape))],
        initializer=writer.constants,
    )
    match design.precision:
        case "fp32":
            return graph
        case "fp16":
            return to_half(graph, PIXELS)
        case "int8":
            assert quantization is not None, "int8 needs ranges"
            counted = to_int8(graph, quantization, PIXELS, VIEWS, before_flatten=design.layout > 1)
            return to_half(counted, PIXELS) if quantization.rest == "fp16" else counted


def build_graph(
    weights: Weights,
    views: Sequence[View],
    precision: Precision = "fp32",
    quantization: Quantization | None = None,
    output_layer: str | None = None,
) -> onnx.ModelProto:
    """Return the graph: `images` uint8 (N, 256, 256, 3) to `probabilities` float32 (N, K), in every precision.

    With an `output_layer` its output is `features` float32 (N, D). `quantization` is required for int8 and unused
    otherwise. Raises ExportError if a constant is out of range for the precision, or the graph fails ONNX's checker.
    """
    design = GraphDesign(
        architecture=weights.architecture,
        preprocessing=weights.preprocessing,
        views=views,
        precision=precision,
        quantization=quantization,
        output_layer=output_layer,
    )
    graph = write_graph(design, weights.tensors, weights.mean_image)
    opset, ir_version = opset_for(precision, quantization, LAYOUT)
    model = helper.make_model(
        graph, producer_name="alexnet-deploy", opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph of {weights.architecture.name} fails ONNX's checker: {error}") from error
    return model


def facts_for_graph(manifest: Manifest, labels: Sequence[str]) -> dict[str, str]:
    """Return the manifest fields that metadata_props repeats, as JSON texts, for a graph found without its bundle."""
    facts: dict[str, object] = {
        "format": manifest.format,
        "format_version": manifest.format_version,
        "precision": manifest.precision,
        "contract": manifest.contract,
        "architecture": manifest.architecture,
        "preprocessing": manifest.preprocessing,
        "views": manifest.views,
        "quantization": manifest.quantization,
        "provenance": manifest.provenance,
        "labels": labels,
    }
    if manifest.output.layer is not None:
        facts["output_layer"] = manifest.output.layer
    if isinstance(manifest.confidence, Confidence):
        facts["temperature"] = manifest.confidence.temperature
    return {name: msgspec.json.encode(value).decode() for name, value in facts.items()}


def _write_pixels(writer: _Writer, images: str, preprocessing: Preprocessing, mean_image: np.ndarray | None) -> str:
    # TensorRT accepts uint8 only as a network input that is followed directly by a Cast.
    pixels = writer.node("Cast", "to_float", [images], to=TensorProto.FLOAT)
    pixels = writer.node("Transpose", "channels_first", [pixels], perm=[0, 3, 1, 2])
    order = list(preprocessing.channel_indices)
    if order != [0, 1, 2]:
        indices = writer.constant("channel_order", np.array(order, dtype=np.int64))
        pixels = writer.node("Gather", "reorder_channels", [pixels, indices], axis=1)
    means = np.array(preprocessing.mean, dtype=np.float32).reshape(3, 1, 1) if mean_image is None else mean_image
    mean = means[order][np.newaxis]
    scale = np.array(preprocessing.scale, dtype=np.float32)[order].reshape(1, 3, 1, 1)
    pixels = writer.node("Sub", "subtract_mean", [pixels, writer.constant(MEAN, mean)])
    return writer.node("Mul", PIXELS, [pixels, writer.constant(SCALE, scale)])


def _write_views(writer: _Writer, pixels: str, views: Sequence[View], size: int) -> str:
    axes = writer.constant("crop_axes", np.array([2, 3], dtype=np.int64))
    mirrored = ""
    if any(view.mirrored for view in views):
        # Mirror the image once, not each crop: OpenVINO's views then cost 1.5 % of the INT8 network instead of 5 %.
        columns = writer.constant("reversed_columns", np.arange(IMAGE_SIZE - 1, -1, -1, dtype=np.int64))
        mirrored = writer.node("Gather", "pixels_mirrored", [pixels, columns], axis=3)
    crops = []
    for index, view in enumerate(views):
        left = IMAGE_SIZE - view.left - size if view.mirrored else view.left
        starts = writer.constant(f"view{index}.start", np.array([view.top, left], dtype=np.int64))
        ends = writer.constant(f"view{index}.end", np.array([view.top + size, left + size], dtype=np.int64))
        source = mirrored if view.mirrored else pixels
        crops.append(writer.node("Slice", f"view{index}", [source, starts, ends, axes]))
    return writer.node("Concat", VIEWS, crops, axis=0)


def _write_layers(writer: _Writer, costs: Iterable[LayerCost], tensors: Mapping[str, np.ndarray], value: str) -> str:
    for cost in costs:
        layer = cost.layer
        match layer:
            case Conv():
                value = writer.node(
                    "Conv",
                    layer.name,
                    [value, *_trained(writer, layer.name, tensors)],
                    kernel_shape=[layer.kernel] * 2,
                    strides=[layer.stride] * 2,
                    pads=list(layer.padding),
                    group=layer.groups,
                )
            case Linear():
                value = writer.node("Gemm", layer.name, [value, *_trained(writer, layer.name, tensors)], transB=1)
            case Relu():
                value = writer.node("Relu", layer.name, [value])
            case Tanh():
                value = writer.node("Tanh", layer.name, [value])
            case LocalNorm():
                value = _write_local_norm(writer, layer, value, cost.in_shape)
            case SpatialNorm():
                value = _write_spatial_norm(writer, layer, value)
            case MaxPool():
                value = writer.node("MaxPool", layer.name, [value], **_window(layer))
            case AveragePool():
                counted = {"count_include_pad": 1} if layer.counts_padding else {}
                value = writer.node("AveragePool", layer.name, [value], **_window(layer), **counted)
            case AdaptiveAveragePool():
                window = _window(adaptive_window(layer, cost.in_shape))
                value = writer.node("AveragePool", layer.name, [value], **window)
            case Flatten():
                value = writer.node("Flatten", layer.name, [value], axis=1)
            case Dropout():
                pass
    return value


def _window(layer: MaxPool | AveragePool) -> dict[str, list[int]]:
    padding = {"pads": list(layer.margins)} if any(layer.margins) else {}
    return {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, **padding}


def _trained(writer: _Writer, layer: str, tensors: Mapping[str, np.ndarray]) -> list[str]:
    return [writer.constant(name, tensors[name]) for name in (f"{layer}.weight", f"{layer}.bias")]


def _write_local_norm(writer: _Writer, layer: LocalNorm, value: str, in_shape: tuple[int, ...]) -> str:
    attributes = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    if layer.groups == 1:
        return writer.node("LRN", layer.name, [value], **attributes)
    # Each column becomes a separate image, so that the window cannot cross columns.
    channels, height, width = in_shape
    split = writer.constant(
        f"{layer.name}.columns", np.array([-1, channels // layer.groups, height, width], dtype=np.int64)
    )
    join = writer.constant(f"{layer.name}.layer", np.array([-1, channels, height, width], dtype=np.int64))
    columns = writer.node("Reshape", f"{layer.name}_split", [value, split])
    normed = writer.node("LRN", layer.name, [columns], **attributes)
    return writer.node("Reshape", f"{layer.name}_join", [normed, join])


def _write_spatial_norm(writer: _Writer, layer: SpatialNorm, value: str) -> str:
    scalars = {
        name: writer.constant(f"{layer.name}.{name}", np.array(number, dtype=np.float32))
        for name, number in (("alpha", layer.alpha), ("k", layer.k), ("exponent", -layer.beta))
    }
    square = writer.node("Mul", f"{layer.name}_square", [value, value])
    mean = writer.node(
        "AveragePool",
        f"{layer.name}_mean",
        [square],
        kernel_shape=[layer.size] * 2,
        strides=[1, 1],
        pads=[layer.size // 2] * 4,
        count_include_pad=1,
    )
    scaled = writer.node("Mul", f"{layer.name}_scaled", [mean, scalars["alpha"]])
    shifted = writer.node("Add", f"{layer.name}_shifted", [scaled, scalars["k"]])
    factor = writer.node("Pow", f"{layer.name}_factor", [shifted, scalars["exponent"]])
    return writer.node("Mul", layer.name, [value, factor])


def _write_average(writer: _Writer, values: str, num_views: int, output: Output, opset: int) -> None:
    shape = writer.constant("by_view", np.array([num_views, -1, output.size], dtype=np.int64))
    by_view = writer.node("Reshape", f"{output.name}_by_view", [values, shape])
    if opset < 18:
        writer.node("ReduceMean", output.name, [by_view], axes=[0], keepdims=0)
    else:
        axes = writer.constant("view_axis", np.array([0], dtype=np.int64))
        writer.node("ReduceMean", output.name, [by_view, axes], keepdims=0)


def encode_graph(model: onnx.ModelProto, facts: Mapping[str, str]) -> bytes:
    """Return the graph as the bytes of one file, with weights, and `facts` in its metadata_props.

    Raises ExportError above protobuf's limit of 2 GB.
    """
    helper.set_model_props(model, dict(facts))
    if model.ByteSize() >= 2**31:
        raise ExportError(f"the graph has {model.ByteSize():,} bytes, the limit of a protobuf file is 2 GB")
    return bytes(model.SerializeToString())
