"""Convert a graph to INT8: explicit symmetric QuantizeLinear and DequantizeLinear before each Conv and Gemm.

Only convolutions and fully connected layers are quantised: inputs and weights in int8, the bias in float.
Normalisations, softmax and the average over the views are unchanged.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexnet_deploy.core.bundle.quantization import MAX_LEVEL, Quantization
from alexnet_deploy.core.bundle.vocabulary import Rest
from alexnet_deploy.core.errors import ExportError

_ZERO = "zero"
"""Name of the common zero point: int8, 0."""


@dataclass(slots=True)
class _Pass:
    """The graph being written, with the new names of renamed tensors."""

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

    def input_scale(self, layer: str, amax: float) -> str:
        scale = scales_for(np.array(amax, dtype=np.float32), self.rest, MAX_LEVEL)
        return self.constant(f"{layer}.input.scale", scale)

    def weights(self, layer: str, name: str, weights: np.ndarray, step: int) -> str:
        """Write a layer's weights as int8 multiples of `step`, one scale per channel; return the dequantised tensor."""
        scales = weight_scales(weights, self.rest, self.weight_level * step)
        if not np.isfinite(scales).all():
            raise ExportError(
                f"{name}: weights up to {np.abs(weights).max():g} need a scale beyond float16; use --rest fp32"
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

    If the first layer is one of them, the image `pixels` is quantised before the `views` are cropped: a fifth of the
    values to round and a quarter of the bytes to copy. With `before_flatten` the input of a layer after a Flatten is
    quantised before the Flatten, as OpenCV's engine requires.

    Raises ExportError for a name that is not a convolution or fully connected layer of the graph, or a layer whose
    weights need a scale too large for float16.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.name: node for node in products_of(graph)}
    if missing := quantization.ranges.keys() - products.keys():
        raise ExportError(f"{', '.join(sorted(missing))}: not a convolution or fully connected layer of this graph")
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
            # The input that is quantised before the views stays signed in OpenVINO, which without VNNI halves the
            # weights of a signed input: even weights lose nothing, and halved they are as small as the others.
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
    """Quantise the input of a node with the range of `layer`."""
    scale = work.input_scale(layer, quantization.ranges[layer])
    rounded = work.node("QuantizeLinear", f"{layer}_input_quantized", [node.input[0], scale, _ZERO])
    node.input[0] = work.node("DequantizeLinear", f"{layer}_input_dequantized", [rounded, scale, _ZERO])


def weight_scales(weights: np.ndarray, rest: Rest, level: int) -> np.ndarray:
    """Return one scale for each output channel, float32 (O,), for weights float32 (O, ...); 1 where all are 0."""
    amax = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    # The smallest scale that float32 represents at full precision; smaller weights round to 0 anyway.
    least = level * np.finfo(np.float32).tiny
    return scales_for(np.where(amax > 0, np.maximum(amax, least), np.float32(level)), rest, level)


def scales_for(amax: np.ndarray, rest: Rest, level: int) -> np.ndarray:
    """Return the float32 scales that map these magnitudes to `level`.

    With rest fp16 they are rounded up to float16 values, so that the graph quantises and dequantises with the same
    scale and nothing is clipped; infinity if the scale is too large for float16.
    """
    scales = np.asarray(amax / np.float32(level), dtype=np.float32)
    if rest == "fp32":
        return scales
    with np.errstate(over="ignore", under="ignore"):
        near = scales.astype(np.float16)
        up = np.where(near < scales, np.nextafter(near, np.float16(np.inf)), near)
    return up.astype(np.float32)
