"""Whether a graph is exactly what its table says.

The graph is written once more from the table alone and compared with the one at hand: each node with its inputs and
attributes, each constant, the contract. What numbers might let through - an LRN alpha that weights at their start do
not feel, a crop that golden images do not show - is found here by name.
"""

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import helper, numpy_helper

from alexnet_deploy.core.bundle.layout import opset_for
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.export.graph import facts_for_graph, write_graph


def audit_graph(
    data: bytes, manifest: Manifest, labels: Sequence[str], tensors: Mapping[str, np.ndarray] | None = None
) -> tuple[str, ...]:
    """Return what in the graph's bytes is not as the manifest's table says; nothing where all is.

    With `tensors`, the trained ones, each of the graph's is compared with its own, bit for bit.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        return (f"the graph cannot be parsed: {error}",)
    if not is_text(model):
        return ("the graph holds texts that are not UTF-8",)
    # Before any constant is looked at: a reference to another file is not to be followed.
    opset, ir_version = opset_for(manifest.precision, manifest.quantization, manifest.graph_layout)
    if surroundings := tuple(_compare_surroundings(model, opset, ir_version)):
        return surroundings
    shapes = manifest.architecture.tensor_shapes()
    # Stand-ins of one number, stretched: the structure does not need 61 million.
    trained = tensors or {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    expected = write_graph(
        manifest.architecture,
        trained,
        manifest.preprocessing,
        manifest.views.crops,
        manifest.precision,
        manifest.quantization,
        manifest.graph_layout,
    )
    # An int8 weight's scales come from the weight.
    unknown = frozenset() if tensors is not None else shapes.keys() | {f"{name}.scale" for name in shapes}
    problems = [
        *_compare_facts(model, facts_for_graph(manifest, labels)),
        *_compare_nodes(expected.node, model.graph.node),
        *_compare_constants(expected, model.graph, unknown),
    ]
    for kind in ("input", "output"):
        if list(getattr(model.graph, kind)) != list(getattr(expected, kind)):
            problems.append(f"the graph's {kind} is not the contract's")
    return tuple(problems)


def is_text(message: Message) -> bool:
    """Return whether all texts of a parsed message are UTF-8: protobuf gives bytes for one that is not."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(is_text(inner) for inner in values):
            return False
    return True


def _compare_surroundings(model: onnx.ModelProto, opset: int, ir_version: int) -> Iterator[str]:
    """Compare what gives nodes and constants their meaning: versions, functions, where constants lie."""
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if opsets != [("", opset)] or model.ir_version != ir_version:
        yield f"the graph is of opsets {opsets} and IR version {model.ir_version}, not {opset} and {ir_version}"
    if model.functions or model.training_info or model.graph.sparse_initializer:
        yield "the graph has functions, training steps or sparse constants, which the table does not"
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.DEFAULT:
            yield f"{tensor.name}: lies outside the graph's own file"


def _compare_facts(model: onnx.ModelProto, expected: Mapping[str, str]) -> Iterator[str]:
    found = {prop.key: prop.value for prop in model.metadata_props}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            yield f"{name}: the graph's metadata and the bundle disagree"


def _compare_nodes(expected: Sequence[onnx.NodeProto], found: Sequence[onnx.NodeProto]) -> Iterator[str]:
    by_name = {node.name: node for node in found}
    if len(by_name) != len(found):
        yield "two nodes share a name"
    wanted = {node.name for node in expected}
    shared = ([node.name for node in nodes if node.name in wanted & by_name.keys()] for nodes in (expected, found))
    if len({tuple(names) for names in shared}) > 1:
        yield "the nodes do not stand in the table's order"
    for node in expected:
        other = by_name.pop(node.name, None)
        if other is None:
            yield f"{node.name}: the table's {node.op_type} is not in the graph"
        elif other.op_type != node.op_type or other.domain != node.domain:
            yield f"{node.name}: is {other.op_type}, the table says {node.op_type}"
        else:
            yield from _compare_node(node, other)
    for name, node in by_name.items():
        yield f"{name}: a {node.op_type} that the table does not have"


def _compare_node(expected: onnx.NodeProto, found: onnx.NodeProto) -> Iterator[str]:
    if list(found.input) != list(expected.input):
        yield f"{expected.name}: takes {', '.join(found.input)}, the table says {', '.join(expected.input)}"
    if list(found.output) != list(expected.output):
        yield f"{expected.name}: gives {', '.join(found.output)}, the table says {', '.join(expected.output)}"
    wanted = {attribute.name: helper.get_attribute_value(attribute) for attribute in expected.attribute}
    actual = {attribute.name: helper.get_attribute_value(attribute) for attribute in found.attribute}
    for name in sorted(wanted.keys() | actual.keys()):
        if wanted.get(name) != actual.get(name):
            yield f"{expected.name}: {name} is {actual.get(name)}, the table says {wanted.get(name)}"


def _compare_constants(expected: onnx.GraphProto, found: onnx.GraphProto, unknown: Set[str]) -> Iterator[str]:
    """Compare each constant; of those that are `unknown` only type and shape, and that they are finite."""
    by_name = {tensor.name: tensor for tensor in found.initializer}
    if len(by_name) != len(found.initializer):
        yield "two constants share a name"
    for tensor in expected.initializer:
        other = by_name.pop(tensor.name, None)
        if other is None:
            yield f"{tensor.name}: is missing"
        elif other.data_type != tensor.data_type:
            found_type, wanted_type = (onnx.TensorProto.DataType.Name(one.data_type) for one in (other, tensor))
            yield f"{tensor.name}: is of type {found_type}, the table says {wanted_type}"
        elif list(other.dims) != list(tensor.dims):
            yield f"{tensor.name}: is of shape {list(other.dims)}, the table says {list(tensor.dims)}"
        else:
            actual = numpy_helper.to_array(other)
            if actual.dtype.kind == "f" and not np.isfinite(actual).all():
                yield f"{tensor.name}: holds {counted(int((~np.isfinite(actual)).sum()), 'NaN or infinite value')}"
            elif tensor.name not in unknown and not np.array_equal(actual, numpy_helper.to_array(tensor)):
                yield f"{tensor.name}: {_first_difference(actual, numpy_helper.to_array(tensor))}"
    for name in by_name:
        yield f"{name}: a constant that the table does not have"


def _first_difference(actual: np.ndarray, expected: np.ndarray) -> str:
    place = np.unravel_index(int((actual != expected).argmax()), actual.shape)
    where = f" at {tuple(int(index) for index in place)}" if actual.size > 1 else ""
    return f"is {actual[place]}{where}, the trained network says {expected[place]}"
