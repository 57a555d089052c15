"""The steps of a graph, from the pixels to its output, and a copy of the graph that returns each step's output.

Added outputs may keep an engine from fusing layers: the copy runs with the same settings, but not always with the
same kernels.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.layout import PIXELS, SOFTMAX, VIEWS, Numbers
from alexnet_deploy.core.model.architecture import Architecture, Dropout, Layer, LocalNorm

_MOVES = frozenset({"Cast", "Transpose", "Gather", "Slice", "Concat", "Relu", "MaxPool", "Flatten", "Reshape"})
"""Operators whose results are values of their inputs, or 0."""

_KINDS = {"Cast": "cast", "Transpose": "layout", "Gather": "order", "Sub": "mean", "Mul": "scale"}
"""Kinds of the steps before the views, by operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One layer of the table, or one step of the graph before the first or after the last layer."""

    name: str
    """The layer's name, or that of the node."""
    kind: str
    """The layer's kind in the table; cast, layout, order, mean, scale, views, softmax or average."""
    value: str
    """The tensor of the graph that it ends in, float32 or float16."""
    numbers: Numbers
    """What it does to its numbers, in the graph."""
    output: str
    """The output of the copy that has these values, float32."""


def steps_of(graph: onnx.GraphProto, architecture: Architecture, output: Output) -> tuple[Step, ...]:
    """Return the steps of a graph that the audit passed, in order; `output` is what it returns.

    A layer's quantised input belongs to the layer, up to the node that has its name. Where the image is quantised
    before the views are cut, the views end after their DequantizeLinear: the next layer reads nothing else.
    """
    names = [node.name for node in graph.node]
    before = graph.node[: names.index(PIXELS) + 1]
    dequantised = f"{VIEWS}_dequantized"
    found = [(node.name, _KINDS[node.op_type], node.name) for node in before]
    found.append((VIEWS, "views", dequantised if dequantised in names else VIEWS))
    for cost in architecture.costs(output.layer):
        layer = cost.layer
        if not isinstance(layer, Dropout):
            is_split = isinstance(layer, LocalNorm) and layer.groups > 1
            found.append((layer.name, _kind_of(layer), f"{layer.name}_join" if is_split else layer.name))
    if output.layer is None:
        found.append((SOFTMAX, "softmax", SOFTMAX))
    found.append((output.name, "average", output.name))
    halves = halves_of(graph)
    numbers = _numbers_of(graph, [value for _, _, value in found], halves)
    return tuple(
        Step(
            name=name,
            kind=kind,
            value=value,
            numbers=numbers[value],
            output=f"{value}_wide" if value in halves else value,
        )
        for name, kind, value in found
    )


def _numbers_of(graph: onnx.GraphProto, values: Sequence[str], halves: Set[str]) -> dict[str, Numbers]:
    """Return for the last value of each step what the nodes since the step before it do."""
    found: dict[str, Numbers] = {}
    nodes = {node.output[0]: node for node in graph.node}
    for value in values:
        operators: set[str] = set()
        has_half = False
        waiting = [value]
        while waiting:
            node = nodes[waiting.pop()]
            operators.add(node.op_type)
            has_half |= node.output[0] in halves
            waiting += [name for name in node.input if name in nodes and name not in found]
        if "QuantizeLinear" in operators:
            found[value] = "int8"
        elif has_half:
            found[value] = "float16"
        else:
            found[value] = "exact" if operators <= _MOVES else "float32"
    return found


def _kind_of(layer: Layer) -> str:
    return str(layer.__struct_config__.tag)


def halves_of(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all float16 tensors."""
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in graph.node:
        if node.op_type == "Cast":
            is_half = any(attribute.i == TensorProto.FLOAT16 for attribute in node.attribute)
        elif node.op_type == "QuantizeLinear":
            is_half = False
        else:
            is_half = any(name in halves for name in node.input)
        if is_half:
            halves.update(node.output)
    return halves


def with_steps(model: onnx.ModelProto, steps: Iterable[Step]) -> onnx.ModelProto:
    """Return a copy of the graph with the output of each step as an output in float32; its own output stays one."""
    own = {value.name for value in model.graph.output}
    taken = [step for step in steps if step.value not in own]
    copy = with_outputs(model, [step.output for step in taken])
    copy.graph.node.extend(
        # An engine that computes float16 in float32 then returns what it computed, not what it would have rounded.
        helper.make_node("Cast", [step.value], [step.output], name=step.output, to=TensorProto.FLOAT)
        for step in taken
        if step.output != step.value
    )
    return copy


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of the graph with these float32 tensors as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return copy
