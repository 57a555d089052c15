"""The operators of our graphs by ONNX's definition, in NumPy and float64, for one layer at a time.

It shares no kernel with an engine. onnx.reference cannot do it: its LRN loops over the images where it should loop over
the channels (onnx 1.23.2).

N images or views, C channels, H height, W width, O output channels.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import product
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

from alexnet_deploy.export.layers.taps import halves_of

_Attributes: TypeAlias = Mapping[str, Any]


class Definition:
    """What each node of a graph makes of its inputs.

    With `rounds` each float16 tensor is rounded to float16, as ONNX says. Without, float16 is computed wider, as
    engines on a CPU do.
    """

    def __init__(self, graph: onnx.GraphProto, *, rounds: bool) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = {node.output[0]: node for node in graph.node}
        self._rounded = halves_of(graph) if rounds else set()

    def value_of(self, name: str, known: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return a tensor of the graph, computed from the `known` ones that lie before it; float64 where it is float.

        Raises KeyError where an input is not known and no node computes it.
        """
        if name in known:
            return _wide(known[name])
        if name in self._constants:
            return _wide(numpy_helper.to_array(self._constants[name]))
        node = self._nodes[name]
        inputs = [self.value_of(source, known) for source in node.input]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        # An engine's input to a layer may be infinite or NaN; so is the result then.
        with np.errstate(all="ignore"):
            value = _OPERATORS[node.op_type](attributes, *inputs)
        return _in_half(value) if name in self._rounded else value


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _in_half(values: np.ndarray) -> np.ndarray:
    # Beyond 65504 it is infinite, as in an engine.
    with np.errstate(over="ignore"):
        rounded: np.ndarray = values.astype(np.float16).astype(np.float64)
    return rounded


def _slice(_: _Attributes, x: np.ndarray, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray) -> np.ndarray:
    cut = [slice(None)] * x.ndim
    for axis, start, end in zip(axes, starts, ends, strict=True):
        cut[axis] = slice(start, end)
    part: np.ndarray = x[tuple(cut)]
    return part


def _conv(attributes: _Attributes, x: np.ndarray, weight_OCHW: np.ndarray, bias_O: np.ndarray) -> np.ndarray:
    groups, kernel = int(attributes["group"]), tuple(attributes["kernel_shape"])
    down, across = attributes["strides"]
    windows = sliding_window_view(_padded(attributes, x, 0.0), kernel, axis=(2, 3))[:, :, ::down, ::across]
    _, channels, height, width = windows.shape[:4]
    filters = weight_OCHW.reshape(groups, len(weight_OCHW) // groups, -1)
    sums = np.empty((len(x), groups, filters.shape[1], height * width))
    # One image at a time: all patches of ten views would need gigabytes.
    for image, patches in zip(sums, windows, strict=True):
        by_group = patches.reshape(groups, channels // groups, *patches.shape[1:]).transpose(0, 1, 4, 5, 2, 3)
        np.matmul(filters, by_group.reshape(groups, filters.shape[2], -1), out=image)
    shifted: np.ndarray = sums.reshape(len(x), -1, height, width) + bias_O[:, np.newaxis, np.newaxis]
    return shifted


def _padded(attributes: _Attributes, x: np.ndarray, fill: float) -> np.ndarray:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


def _in_windows(attributes: _Attributes, x: np.ndarray, fill: float) -> Iterator[np.ndarray]:
    """Yield for each place in a pool's window the values there, (N, C, H, W)."""
    (rows, columns), (down, across) = attributes["kernel_shape"], attributes["strides"]
    padded = _padded(attributes, x, fill)
    last_row, last_column = (size - kernel for size, kernel in zip(padded.shape[2:], (rows, columns), strict=True))
    for row, column in product(range(rows), range(columns)):
        yield padded[:, :, row : row + last_row + 1 : down, column : column + last_column + 1 : across]


def _max_pool(attributes: _Attributes, x: np.ndarray) -> np.ndarray:
    return reduce(np.maximum, _in_windows(attributes, x, -np.inf))


def _average_pool(attributes: _Attributes, x: np.ndarray) -> np.ndarray:
    sums = reduce(np.add, _in_windows(attributes, x, 0.0))
    is_counted = attributes.get("count_include_pad")
    ones = np.ones_like(x[:1, :1])
    number = math.prod(attributes["kernel_shape"]) if is_counted else reduce(np.add, _in_windows(attributes, ones, 0.0))
    means: np.ndarray = sums / number
    return means


def _lrn(attributes: _Attributes, x: np.ndarray) -> np.ndarray:
    size, channels = int(attributes["size"]), x.shape[1]
    before = (size - 1) // 2
    squares = np.pad(x**2, ((0, 0), (before, size - 1 - before), (0, 0), (0, 0)))
    sums = reduce(np.add, (squares[:, place : place + channels] for place in range(size)))
    normed: np.ndarray = x / (attributes["bias"] + attributes["alpha"] / size * sums) ** attributes["beta"]
    return normed


def _softmax(attributes: _Attributes, x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: np.ndarray = exponents / exponents.sum(axis=-1, keepdims=True)
    return shares


def _quantise(_: _Attributes, x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    # In float32, which decides what a tie is.
    levels = np.rint(x.astype(np.float32) / scale.astype(np.float32)) + zero
    rounded: np.ndarray = np.clip(levels, -128, 127).astype(np.int8)
    return rounded


def _dequantise(attributes: _Attributes, x: np.ndarray, scale: np.ndarray, *zero: np.ndarray) -> np.ndarray:
    by_channel = scale.reshape(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale
    shifted: np.ndarray = (x.astype(np.float64) - (zero[0] if zero else 0.0)) * by_channel
    return shifted


_OPERATORS: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    {
        "Cast": lambda _, x: x.astype(np.float64),
        "Transpose": lambda attributes, x: x.transpose(attributes["perm"]),
        "Gather": lambda attributes, x, indices: np.take(x, indices, axis=attributes["axis"]),
        "Add": lambda _, x, y: x + y,
        "Sub": lambda _, x, y: x - y,
        "Mul": lambda _, x, y: x * y,
        "Pow": lambda _, x, y: x**y,
        "Slice": _slice,
        "Concat": lambda attributes, *parts: np.concatenate(parts, axis=attributes["axis"]),
        "Conv": _conv,
        "Gemm": lambda _, x, weight, bias: x @ weight.T + bias,
        "Relu": lambda _, x: np.maximum(x, 0.0),
        "Tanh": lambda _, x: np.tanh(x),
        "LRN": _lrn,
        "MaxPool": _max_pool,
        "AveragePool": _average_pool,
        "Flatten": lambda _, x: x.reshape(len(x), -1),
        "Reshape": lambda _, x, shape: x.reshape(shape),
        "Softmax": _softmax,
        "ReduceMean": lambda _, x, *axes: x.mean(axis=0),
        "QuantizeLinear": _quantise,
        "DequantizeLinear": _dequantise,
    }
)
"""The operators that our writer writes, in the forms that engines/graph_guard.py accepts."""
