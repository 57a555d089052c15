"""A graph in INT8: QuantizeLinear and DequantizeLinear before the products, explicit and symmetric.

Convolutions and fully connected layers only: each takes its input and its weights through int8 and adds its bias in
float. Normalisations, softmax and the average over the views stay what they are.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexnet_deploy.core.bundle.quantization import MAX_LEVEL, Quantization
from alexnet_deploy.core.bundle.vocabulary import Rest
from alexnet_deploy.core.errors import ExportError

_ZERO = "zero"
"""The one zero point: int8, 0."""


@dataclass(slots=True)
class _Pass:
    """The graph being written, and what each tensor is now called."""

    graph: onnx.GraphProto
    rest: Rest
    weight_level: int
    renamed: dict[str, str] = field(default_factory=dict)

    def node(self, op: str, name: str, inputs: list[str], **attributes: object) -> str:
        self.graph.node.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def input_scale(self, layer: str, largest: float) -> str:
        scale = scales_for(np.array(largest, dtype=np.float32), self.rest, MAX_LEVEL)
        return self.constant(f"{layer}.input.scale", scale)

    def weights(self, layer: str, name: str, weights: np.ndarray, step: int) -> str:
        """Write a layer's weights as int8, multiples of `step`, one scale a channel; return what stands for them."""
        scales = weight_scales(weights, self.rest, self.weight_level * step)
        if not np.isfinite(scales).all():
            raise ExportError(
                f"{name}: weights up to {np.abs(weights).max():g} have no scale in float16; --rest fp32 has"
            )
        levels = np.rint(weights / (scales * step).reshape(-1, *[1] * (weights.ndim - 1)))
        levels = np.clip(levels, -self.weight_level, self.weight_level)
        self.constant(name, (levels * step).astype(np.int8))
        inputs = [name, self.constant(f"{name}.scale", scales)]
        return self.node("DequantizeLinear", f"{layer}_weight_dequantized", inputs, axis=0)


def to_int8(
    graph: onnx.GraphProto, quantization: Quantization, pixels: str, views: str, *, before_flatten: bool
) -> onnx.GraphProto:
    """Return the FP32 graph with the layers of `quantization` in int8, inputs and outputs unchanged.

    Where the first layer is among them, the image `pixels` is quantised before the `views` are cut from it: a fifth
    of the numbers to round, and a quarter of the bytes to copy. With `before_flatten` the input of a layer behind a
    Flatten is quantised before it, as OpenCV's engine needs it.

    Raises ExportError, by name, for a layer that is no product of the graph, or whose weights are too large for a scale
    in float16.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.name: node for node in products_of(graph)}
    if missing := quantization.ranges.keys() - products.keys():
        raise ExportError(f"{', '.join(sorted(missing))}: no convolution or fully connected layer of this graph")
    quantised_weights = {products[name].input[1] for name in quantization.ranges}
    written = onnx.GraphProto()
    written.CopyFrom(graph)
    del written.node[:], written.initializer[:]
    written.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in quantised_weights)
    work = _Pass(graph=written, rest=quantization.rest, weight_level=quantization.weight_level)
    work.constant(_ZERO, np.array(0, dtype=np.int8))
    first = next((name for name in quantization.ranges if products[name].input[0] == views), None)
    behind = {products[name].input[0]: name for name in quantization.ranges} if before_flatten else {}
    scale = "" if first is None else work.input_scale(first, quantization.ranges[first])
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(work.renamed.get(name, name) for name in node.input)
        if node.op_type == "Flatten" and node.name in behind:
            _quantise_input(work, copy, behind.pop(node.name), quantization)
        if node.name in quantization.ranges:
            if node.name != first and (not before_flatten or node.input[0] in behind):
                _quantise_input(work, copy, node.name, quantization)
            # What is quantised before the views stays signed for OpenVINO, and without VNNI it halves the weights of a
            # signed input: even ones lose nothing, and halved they are as small as the others.
            step = 2 if node.name == first and not quantization.needs_vnni else 1
            copy.input[1] = work.weights(node.name, node.input[1], constants[node.input[1]], step)
        written.node.append(copy)
        if first is not None and node.name == pixels:
            work.renamed[pixels] = work.node("QuantizeLinear", f"{pixels}_quantized", [pixels, scale, _ZERO])
        if first is not None and node.name == views:
            work.renamed[views] = work.node("DequantizeLinear", f"{views}_dequantized", [views, scale, _ZERO])
    return written


def products_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the convolutions and fully connected layers, in order."""
    return [node for node in graph.node if node.op_type in ("Conv", "Gemm")]


def _quantise_input(work: _Pass, node: onnx.NodeProto, layer: str, quantization: Quantization) -> None:
    """Let a node take its input through int8, with the range of `layer`."""
    scale = work.input_scale(layer, quantization.ranges[layer])
    rounded = work.node("QuantizeLinear", f"{layer}_input_quantized", [node.input[0], scale, _ZERO])
    node.input[0] = work.node("DequantizeLinear", f"{layer}_input_dequantized", [rounded, scale, _ZERO])


def weight_scales(weights: np.ndarray, rest: Rest, level: int) -> np.ndarray:
    """Return one scale for each output channel, float32 (O,), for weights float32 (O, ...); 1 where all are 0."""
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    # The least scale that float32 holds in full; what is smaller rounds to 0 anyway.
    least = level * np.finfo(np.float32).tiny
    return scales_for(np.where(largest > 0, np.maximum(largest, least), np.float32(level)), rest, level)


def scales_for(largest: np.ndarray, rest: Rest, level: int) -> np.ndarray:
    """Return the float32 scales with which these magnitudes become `level`.

    For a remainder in float16 they are numbers that float16 holds, rounded up, so that the graph dequantises with the
    very scale that it was quantised with and nothing is cut; infinity where float16 has none so large.
    """
    scales = np.asarray(largest / np.float32(level), dtype=np.float32)
    if rest == "fp32":
        return scales
    with np.errstate(over="ignore", under="ignore"):
        near = scales.astype(np.float16)
        up = np.where(near < scales, np.nextafter(near, np.float16(np.inf)), near)
    return up.astype(np.float32)
