"""A graph by its values: the inputs and outputs of each node, and the constants."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from alexnet_deploy.export.importing.readers.onnx.structure import Structure, StructureError, is_shape

_MOST_NODES = 4096

_QUANTIZED = ("Quantize", "Dequantize", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation."""

    op: str
    name: str
    """Its own name, or that of its output."""
    inputs: tuple[str, ...]
    output: str
    """Its first output; the mask of a dropout is ignored."""
    proto: onnx.NodeProto

    def attribute(self, name: str, otherwise: object = None) -> object:
        """Return an attribute's value, or `otherwise` if it is absent."""
        found = next((one for one in self.proto.attribute if one.name == name), None)
        return otherwise if found is None else helper.get_attribute_value(found)

    def number(self, name: str, otherwise: float) -> float:
        """Return a numeric attribute; raises StructureError for another type."""
        value = self.attribute(name, otherwise)
        if not isinstance(value, int | float):
            raise StructureError(f"{self.name}: {name} is not a number")
        return value

    def whole(self, name: str, otherwise: int) -> int:
        """Return an integer attribute; raises StructureError for another type."""
        value = self.number(name, otherwise)
        if not isinstance(value, int):
            raise StructureError(f"{self.name}: {name} is not an integer")
        return value

    def list(self, name: str, otherwise: Sequence[int]) -> tuple[int, ...]:
        """Return an attribute that is a list of integers; raises StructureError for another type."""
        value = self.attribute(name, otherwise)
        if not isinstance(value, list | tuple) or not all(isinstance(one, int) for one in value):
            raise StructureError(f"{self.name}: {name} is not a list of integers")
        return tuple(value)


@dataclass(slots=True)
class Graph:
    """The nodes of a file, indexed by their outputs and inputs."""

    structure: Structure
    nodes: list[Node] = field(default_factory=list)
    made_by: dict[str, Node] = field(default_factory=dict)
    """The node that writes each value."""
    taken_by: dict[str, list[Node]] = field(default_factory=dict)
    """The nodes that read each value, in order."""
    _constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, name: str) -> np.ndarray | None:
        """Return a value computed from constants alone; None if it depends on the input."""
        if name not in self._constants:
            node = self.made_by.get(name)
            value = None if node is None else self._folded(node)
            if value is None:
                return None
            self._constants[name] = value
        return self._constants[name]

    def add_constant(self, name: str, value: np.ndarray) -> None:
        """Add a constant; raises StructureError if the name is taken."""
        if name in self._constants:
            raise StructureError(f"two constants share a name, {name}")
        self._constants[name] = value

    def _folded(self, node: Node) -> np.ndarray | None:
        # Each node comes after the nodes that write its inputs, so this ends.
        inputs = [self._constants.get(name) for name in node.inputs]
        if any(value is None for value in inputs):
            return None
        known = [value for value in inputs if value is not None]
        match node.op:
            case "Constant":
                value = node.attribute("value")
                return self.structure.array(value) if isinstance(value, onnx.TensorProto) else None
            case "ConstantOfShape":
                return self._filled(node, known[0])
            case "Identity":
                return known[0]
            case "Transpose":
                order = node.list("perm", tuple(range(known[0].ndim))[::-1])
                return known[0].transpose(order) if sorted(order) == [*range(known[0].ndim)] else None
        return None

    def _filled(self, node: Node, shape: np.ndarray) -> np.ndarray:
        value = node.attribute("value")
        filling = self.structure.array(value) if isinstance(value, onnx.TensorProto) else np.zeros(1, np.float32)
        sizes = tuple(int(size) for size in shape.reshape(-1))
        if filling.size != 1 or not is_shape(sizes):
            raise StructureError(f"{node.name}: invalid tensor shape {sizes[:8]}")
        # A view of one value: memory is allocated only if the network is recognised.
        return np.broadcast_to(filling.reshape(()), sizes)


def graph_of(structure: Structure) -> Graph:
    """Return the graph of a parsed file; raises StructureError if it is not a plain network of floats."""
    proto = structure.model.graph
    graph = Graph(structure=structure)
    if len(proto.node) > _MOST_NODES:
        raise StructureError(f"has {len(proto.node):,} nodes, too many for an AlexNet-like network")
    for tensor in proto.initializer:
        graph.add_constant(tensor.name, structure.array(tensor))
    known = {value.name for value in proto.input} | {tensor.name for tensor in proto.initializer} | {""}
    for node in _nodes(proto):
        if unknown := [name for name in node.inputs if name not in known]:
            raise StructureError(f"{node.name}: reads {unknown[0]}, which no earlier node writes")
        for output in node.proto.output:
            if output and output in known:
                raise StructureError(f"{node.name}: writes {output}, which already exists")
            known.add(output)
            graph.made_by[output] = node
        graph.nodes.append(node)
        for name in dict.fromkeys(node.inputs):
            graph.taken_by.setdefault(name, []).append(node)
        graph.constant(node.output)
    return graph


def _nodes(proto: onnx.GraphProto) -> Iterator[Node]:
    for node in proto.node:
        if not node.output or not node.output[0]:
            raise StructureError(f"{node.name or node.op_type}: has no output")
        name = node.name or node.output[0]
        if node.op_type.startswith(_QUANTIZED):
            raise StructureError(f"{name}: {node.op_type} belongs to a quantized graph; import the float graph")
        if node.domain not in ("", "ai.onnx"):
            raise StructureError(f"{name}: {node.op_type} of the domain {node.domain} is not an operator of ONNX")
        yield Node(op=node.op_type, name=name, inputs=tuple(node.input), output=node.output[0], proto=node)
