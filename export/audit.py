"""Check that a graph matches its architecture table exactly.

The graph is generated again from the table alone and compared with the given one: each node with its inputs and
attributes, each constant, the contract. This finds errors that a numerical comparison may miss, such as an LRN alpha
that hardly changes untrained weights' outputs or a crop that the golden images do not reveal, and names them.
"""

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import helper, numpy_helper

from alexnet_deploy.core.bundle.layout import opset_for
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.export.graph import MEAN, GraphDesign, facts_for_graph, write_graph


def audit_graph(
    data: bytes,
    manifest: Manifest,
    labels: Sequence[str],
    tensors: Mapping[str, np.ndarray] | None = None,
    mean_image: np.ndarray | None = None,
) -> tuple[str, ...]:
    """Return the differences between the graph's bytes and the manifest's table; empty if it matches.

    With `tensors`, the trained tensors, and their `mean_image`, the graph's must be bit-identical to them.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        return (f"the graph cannot be parsed: {error}",)
    if not is_text(model):
        return ("the graph contains text that is not UTF-8",)
    # Before any constant is read: a reference to another file must not be followed.
    opset, ir_version = opset_for(manifest.precision, manifest.quantization, manifest.graph_layout)
    if surroundings := tuple(_compare_surroundings(model, opset, ir_version)):
        return surroundings
    layer = manifest.output.layer
    shapes = manifest.architecture.tensor_shapes(layer)
    # Placeholders that repeat a single number: checking the structure does not need 61 million parameters.
    trained = tensors or {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    has_mean_image = manifest.preprocessing.has_mean_image
    if has_mean_image and mean_image is None:
        mean_image = np.broadcast_to(np.float32(0), (3, IMAGE_SIZE, IMAGE_SIZE))
    design = GraphDesign(
        architecture=manifest.architecture,
        preprocessing=manifest.preprocessing,
        views=manifest.views.crops,
        precision=manifest.precision,
        quantization=manifest.quantization,
        layout=manifest.graph_layout,
        output_layer=layer,
    )
    expected = write_graph(design, trained, mean_image if has_mean_image else None)
    # The scales of an int8 weight are computed from the weight.
    unknown = set() if tensors is not None else shapes.keys() | {f"{name}.scale" for name in shapes}
    if tensors is None and has_mean_image:
        unknown.add(MEAN)
    problems = [
        *_compare_facts(model, facts_for_graph(manifest, labels)),
        *_compare_nodes(expected.node, model.graph.node),
        *_compare_constants(expected, model.graph, unknown),
    ]
    for kind in ("input", "output"):
        if list(getattr(model.graph, kind)) != list(getattr(expected, kind)):
            problems.append(f"the graph's {kind} does not match the contract")
    return tuple(problems)


def is_text(message: Message) -> bool:
    """Return whether all strings of a parsed message are UTF-8: protobuf returns bytes for the others."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(is_text(inner) for inner in values):
            return False
    return True


def _compare_surroundings(model: onnx.ModelProto, opset: int, ir_version: int) -> Iterator[str]:
    """Compare everything that affects the meaning of nodes and constants: versions, functions, external data."""
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if opsets != [("", opset)] or model.ir_version != ir_version:
        words = ", ".join(f"{domain} {version}".strip() for domain, version in opsets)
        yield f"the graph has opset {words} and IR version {model.ir_version}, not {opset} and {ir_version}"
    if model.functions or model.training_info or model.graph.sparse_initializer:
        yield "the graph has functions, training steps or sparse constants, which the table does not have"
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.DEFAULT:
            yield f"{tensor.name}: stored outside the graph's file"


def _compare_facts(model: onnx.ModelProto, expected: Mapping[str, str]) -> Iterator[str]:
    found = {prop.key: prop.value for prop in model.metadata_props}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            yield f"{name}: the graph's metadata does not match the manifest"


def _compare_nodes(expected: Sequence[onnx.NodeProto], found: Sequence[onnx.NodeProto]) -> Iterator[str]:
    by_name = {node.name: node for node in found}
    if len(by_name) != len(found):
        yield "two nodes share a name"
    wanted = {node.name for node in expected}
    shared = ([node.name for node in nodes if node.name in wanted & by_name.keys()] for nodes in (expected, found))
    if len({tuple(names) for names in shared}) > 1:
        yield "the nodes are not in the table's order"
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
        yield f"{expected.name}: its inputs are {', '.join(found.input)}, the table says {', '.join(expected.input)}"
    if list(found.output) != list(expected.output):
        yield f"{expected.name}: its outputs are {', '.join(found.output)}, the table says {', '.join(expected.output)}"
    wanted = {attribute.name: helper.get_attribute_value(attribute) for attribute in expected.attribute}
    actual = {attribute.name: helper.get_attribute_value(attribute) for attribute in found.attribute}
    for name in sorted(wanted.keys() | actual.keys()):
        if wanted.get(name) != actual.get(name):
            yield f"{expected.name}: {name} is {actual.get(name)}, the table says {wanted.get(name)}"


def _compare_constants(expected: onnx.GraphProto, found: onnx.GraphProto, unknown: Set[str]) -> Iterator[str]:
    """Compare each constant; for those in `unknown` only type and shape, and that all values are finite."""
    by_name = {tensor.name: tensor for tensor in found.initializer}
    if len(by_name) != len(found.initializer):
        yield "two constants share a name"
    for tensor in expected.initializer:
        other = by_name.pop(tensor.name, None)
        if other is None:
            yield f"{tensor.name}: missing in the graph"
        elif other.data_type != tensor.data_type:
            found_type, wanted_type = (onnx.TensorProto.DataType.Name(one.data_type) for one in (other, tensor))
            yield f"{tensor.name}: its type is {found_type}, the table says {wanted_type}"
        elif list(other.dims) != list(tensor.dims):
            yield f"{tensor.name}: its shape is {list(other.dims)}, the table says {list(tensor.dims)}"
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
