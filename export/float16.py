"""Convert a graph to float16: weights and activations in float16, with float32 islands where it is not precise enough.

The islands are everything up to the preprocessed image, every normalisation and average pool, softmax and the average
over the views. An LRN squares its input, and 256 squared already exceeds float16.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.core.errors import ExportError

HALF_MAX = 65504.0
"""The largest finite float16 value."""

_HALF, _FLOAT = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)

# Operators that compute in float16; all others keep float32.
_HALF_OPS = frozenset(
    {
        "Slice",
        "Gather",
        "Concat",
        "QuantizeLinear",
        "DequantizeLinear",
        "Conv",
        "Gemm",
        "Relu",
        "Tanh",
        "MaxPool",
        "Flatten",
    }
)


def to_half(graph: onnx.GraphProto, pixels: str) -> onnx.GraphProto:
    """Return the FP32 graph with weights and activations in float16, inputs and outputs unchanged.

    Up to the node `pixels`, whose output is the preprocessed image, it stays in float32. Raises ExportError for a
    constant outside float16's range; the message names it.
    """
    names = [node.name for node in graph.node]
    kept = frozenset(names[: names.index(pixels) + 1])
    half_nodes = [node for node in graph.node if node.op_type in _HALF_OPS and node.name not in kept]
    float_constants = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halved = {name for node in half_nodes for name in node.input if name in float_constants}
    types = {name: _HALF if name in halved else _FLOAT for name in float_constants}
    half = onnx.GraphProto()
    half.CopyFrom(graph)
    del half.node[:], half.initializer[:]
    half.initializer.extend(_in_half(tensor) if tensor.name in halved else tensor for tensor in graph.initializer)
    computes_in_half = {node.name for node in half_nodes}
    for node in graph.node:
        wanted = _HALF if node.name in computes_in_half else _FLOAT
        written = onnx.NodeProto()
        written.CopyFrom(node)
        # `types` holds the floating-point tensors; images, indices and shapes are never cast.
        del written.input[:]
        written.input.extend(_cast(half, types, name, wanted) if name in types else name for name in node.input)
        half.node.append(written)
        # int8 tensors connect float16 nodes only, so they are never cast.
        types[node.output[0]] = wanted
    return half


def _cast(graph: onnx.GraphProto, types: dict[str, int], name: str, wanted: int) -> str:
    """Return the name of this tensor in the wanted type; adds a Cast if there is none yet."""
    if types[name] == wanted:
        return name
    cast = f"{name}_as_{'half' if wanted == _HALF else 'float'}"
    if cast not in types:
        graph.node.append(helper.make_node("Cast", [name], [cast], name=cast, to=wanted))
        types[cast] = wanted
    return cast


def _in_half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    if not np.abs(values).max(initial=0.0) <= HALF_MAX:
        raise ExportError(f"{tensor.name}: {np.abs(values).max():g} is outside float16's range of {HALF_MAX:g}")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)
