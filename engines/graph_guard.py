"""The check of a bundle's graph before an engine loads it: its bytes are parsed and compared with the manifest's table.

Engines trust what they load. A MaxPool named Conv aborts the process inside OpenVINO, cycles and loops never terminate,
and external data has no digest. So before an engine loads a graph, each node must be one that our writer writes for
this table: its operator, its attributes, its number of inputs, and its place after the nodes that it reads. The check
takes 2 ms and no library; it does not compare the values of constants, which export/audit.py does.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.bundle.layout import has_half, opset_for
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import GRAPH
from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
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
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.engines.graph_file import (
    FLOAT,
    FLOAT16,
    INT64,
    UINT8,
    AttributeValue,
    GraphFile,
    Node,
    Value,
    read_graph_file,
)
from alexnet_deploy.engines.graph_wire import GraphFileError

_MOST_SAID = 3
_MEAN = "mean"
"""Name of the constant that is subtracted from images; a mean image is the only large one."""
_MOST_ELEMENTS = 2**16
"""Largest constant that is not a trained tensor: a scale per output of fc6 has 4,096 elements."""

_Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operator:
    """The forms of one operator that our writer writes."""

    arity: tuple[int, ...]
    """Allowed numbers of inputs; empty if it is the number of views."""
    attributes: tuple[_Attributes, ...] = field(default=({},))
    """Allowed sets of attributes; empty if the table defines them."""


_OPERATORS: Mapping[str, _Operator] = MappingProxyType(
    {
        "Cast": _Operator(arity=(1,), attributes=({"to": FLOAT}, {"to": FLOAT16})),
        "Transpose": _Operator(arity=(1,), attributes=({"perm": (0, 3, 1, 2)},)),
        "Gather": _Operator(arity=(2,), attributes=({"axis": 1}, {"axis": 3})),
        "Sub": _Operator(arity=(2,)),
        "Mul": _Operator(arity=(2,)),
        "Add": _Operator(arity=(2,)),
        "Pow": _Operator(arity=(2,)),
        "Slice": _Operator(arity=(4,)),
        "Concat": _Operator(arity=(), attributes=({"axis": 0},)),
        "Conv": _Operator(arity=(3,), attributes=()),
        "Gemm": _Operator(arity=(3,), attributes=()),
        "Relu": _Operator(arity=(1,), attributes=()),
        "Tanh": _Operator(arity=(1,), attributes=()),
        "LRN": _Operator(arity=(1,), attributes=()),
        "MaxPool": _Operator(arity=(1,), attributes=()),
        "AveragePool": _Operator(arity=(1,), attributes=()),
        "Flatten": _Operator(arity=(1,), attributes=()),
        "Reshape": _Operator(arity=(2,)),
        "Softmax": _Operator(arity=(1,), attributes=({"axis": -1},)),
        "ReduceMean": _Operator(arity=(1, 2), attributes=({"axes": (0,), "keepdims": 0}, {"keepdims": 0})),
        "QuantizeLinear": _Operator(arity=(3,)),
        "DequantizeLinear": _Operator(arity=(2, 3), attributes=({}, {"axis": 0})),
    }
)


def refuse_foreign_graph(data: bytes, manifest: Manifest, bundle: str) -> None:
    """Raise BundleError for a graph that our writer never writes for this manifest."""
    problems = tuple(islice(graph_problems(data, manifest), _MOST_SAID))
    if problems:
        raise BundleError(f"{bundle}: {GRAPH} was refused before loading: {'; '.join(problems)}")


def graph_problems(data: bytes, manifest: Manifest) -> Iterator[str]:
    """Yield each difference between a graph's bytes and what our writer writes for this manifest's table."""
    try:
        graph = read_graph_file(data)
    except GraphFileError as error:
        yield str(error)
        return
    yield from _compare_contract(graph, manifest)
    yield from _compare_constants(graph, manifest)
    yield from _compare_nodes(graph, manifest)


def _compare_contract(graph: GraphFile, manifest: Manifest) -> Iterator[str]:
    opset, ir_version = opset_for(manifest.precision, manifest.quantization, manifest.graph_layout)
    if (graph.opset, graph.ir_version) != (opset, ir_version):
        yield (f"the graph has opset {graph.opset} and IR version {graph.ir_version}, not {opset} and {ir_version}")
    images = Value(name=IMAGES, element=UINT8, shape=("N", IMAGE_SIZE, IMAGE_SIZE, 3))
    output = Value(name=manifest.output.name, element=FLOAT, shape=("N", manifest.output.size))
    for kind, found, expected in (("input", graph.inputs, images), ("output", graph.outputs, output)):
        if found != (expected,):
            yield f"the graph's {kind} does not match the contract"


def _compare_constants(graph: GraphFile, manifest: Manifest) -> Iterator[str]:
    shapes = manifest.architecture.tensor_shapes(manifest.output.layer)
    if manifest.preprocessing.has_mean_image:
        shapes[_MEAN] = (1, 3, IMAGE_SIZE, IMAGE_SIZE)
    for name, constant in graph.constants.items():
        expected = shapes.get(name)
        if expected is not None and constant.shape != expected:
            yield f"{name}: its shape is {list(constant.shape)}, the table says {list(expected)}"
        elif expected is None and constant.num_elements > _MOST_ELEMENTS:
            yield f"{name}: a constant that the table does not have"


def _compare_nodes(graph: GraphFile, manifest: Manifest) -> Iterator[str]:
    of_table = dict(_nodes_of(manifest))
    known = {IMAGES, *graph.constants}
    for node in graph.nodes:
        problem = _node_problem(node, of_table.get(node.name), len(manifest.views.crops))
        if problem is None and (missing := [name for name in node.inputs if name not in known]):
            problem = f"reads {missing[0]}, which no earlier node writes"
        if problem is None and (node.outputs != (node.name,) or node.name in known):
            problem = f"writes {', '.join(node.outputs)}; a node must write exactly its own name, and names are unique"
        if problem is not None:
            yield f"{node.name}: {problem}"
        known.add(node.name)
    yield from _compare_numbers_of_nodes(graph, manifest, tuple(of_table))
    yield from _compare_shapes(graph, manifest)


def _node_problem(node: Node, of_table: tuple[str, _Attributes] | None, num_views: int) -> str | None:
    operator = _OPERATORS.get(node.op)
    if operator is None:
        return f"is {node.op}, which our writer does not write"
    if of_table is not None:
        op, expected = of_table
        if op != node.op:
            return f"is {node.op}, the table says {op}"
        for name in sorted(expected.keys() | node.attributes.keys()):
            if not _same(node.attributes.get(name), expected.get(name)):
                found, wanted = (_plain(of.get(name)) for of in (node.attributes, expected))
                return f"{name} is {found}, the table says {wanted}"
    elif not any(_same_attributes(node.attributes, expected) for expected in operator.attributes):
        return f"a {node.op} that the table does not have"
    if len(node.inputs) not in (operator.arity or (num_views,)):
        return f"has {len(node.inputs)} inputs, which our writer does not write for {node.op}"
    return None


def _same_attributes(found: _Attributes, expected: _Attributes) -> bool:
    return found.keys() == expected.keys() and all(_same(found[name], expected[name]) for name in found)


def _same(found: AttributeValue | None, expected: AttributeValue | None) -> bool:
    # In Python 1.0 equals 1, but an engine ignores an axis that is a float.
    return type(found) is type(expected) and found == expected


def _plain(value: AttributeValue | None) -> object:
    return list(value) if isinstance(value, tuple) else value


def _compare_numbers_of_nodes(graph: GraphFile, manifest: Manifest, of_table: tuple[str, ...]) -> Iterator[str]:
    """Compare the number of nodes of each operator, so that none can be repeated until memory runs out."""
    if [node.name for node in graph.nodes if node.name in of_table] != list(of_table):
        yield "the nodes are not in the table's order"
    found = Counter(node.op for node in graph.nodes)
    expected = _numbers_of_nodes(manifest)
    # In float16 there is a Cast at every border of a float32 island: at most as many as there are nodes.
    num_casts = found.pop("Cast", 0)
    if not 1 <= num_casts <= (len(graph.nodes) if has_half(manifest.precision, manifest.quantization) else 1):
        yield f"{num_casts} nodes are Cast, the table says 1"
    for op in sorted(expected.keys() | found.keys()):
        if found[op] != expected[op]:
            yield f"{found[op]} nodes are {op}, the table says {expected[op]}"


def _numbers_of_nodes(manifest: Manifest) -> Counter[str]:
    expected = Counter(op for _, (op, _) in _nodes_of(manifest))
    crops = manifest.views.crops
    expected.update({"Transpose": 1, "Sub": 1, "Mul": 1, "Slice": len(crops), "Concat": 1})
    expected.update({"Softmax": int(manifest.output.layer is None), "Reshape": 1, "ReduceMean": 1})
    expected["Gather"] += any(view.mirrored for view in crops)
    expected["Gather"] += manifest.preprocessing.channel_order != "RGB"
    if manifest.quantization is not None:
        num_layers = len(manifest.quantization.ranges)
        expected.update({"QuantizeLinear": num_layers, "DequantizeLinear": 2 * num_layers})
    return expected


def _compare_shapes(graph: GraphFile, manifest: Manifest) -> Iterator[str]:
    """Check Reshape targets and that arithmetic only uses small constants, so that no tensor grows by broadcasting."""
    costs = tuple(manifest.architecture.costs(manifest.output.layer))
    shapes: set[tuple[int, ...]] = {(len(manifest.views.crops), -1, manifest.output.size)}
    for cost in costs:
        if isinstance(cost.layer, LocalNorm) and cost.layer.groups > 1:
            channels, height, width = cost.in_shape
            shapes |= {(-1, channels // cost.layer.groups, height, width), (-1, channels, height, width)}
    spatial = {cost.layer.name for cost in costs if isinstance(cost.layer, SpatialNorm)}
    for node in graph.nodes:
        if node.op not in ("Reshape", "Sub", "Mul", "Add", "Pow") or node.name in spatial or len(node.inputs) != 2:
            continue
        constant = graph.constants.get(node.inputs[1])
        if node.op == "Reshape":
            if constant is None or constant.element != INT64 or _whole_numbers(constant.data) not in shapes:
                yield f"{node.name}: a Reshape that the table does not have"
        elif (node.op, node.inputs[1]) == ("Sub", _MEAN) and manifest.preprocessing.has_mean_image:
            continue
        elif node.inputs[0] != node.inputs[1] and (constant is None or constant.num_elements > 3):
            yield f"{node.name}: a {node.op} that the table does not have"


def _whole_numbers(data: memoryview) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}q", data)


def _nodes_of(manifest: Manifest) -> Iterator[tuple[str, tuple[str, _Attributes]]]:
    """Yield the name, operator and attributes of each node of the layers, in order."""
    for cost in manifest.architecture.costs(manifest.output.layer):
        yield from ((name, (op, attributes)) for name, op, attributes in _nodes_of_layer(cost))


def _nodes_of_layer(cost: LayerCost) -> Iterator[tuple[str, str, _Attributes]]:
    layer, name = cost.layer, cost.layer.name
    match layer:
        case Conv():
            yield name, "Conv", {**_window(layer), "pads": layer.padding, "group": layer.groups}
        case Linear():
            yield name, "Gemm", {"transB": 1}
        case MaxPool():
            yield name, "MaxPool", _pool_window(layer)
        case AveragePool():
            yield name, "AveragePool", _pool_window(layer) | ({"count_include_pad": 1} if layer.counts_padding else {})
        case AdaptiveAveragePool():
            yield name, "AveragePool", _pool_window(adaptive_window(layer, cost.in_shape))
        case Flatten():
            yield name, "Flatten", {"axis": 1}
        case LocalNorm():
            numbers = {"alpha": _as_float32(layer.alpha), "beta": _as_float32(layer.beta), "bias": _as_float32(layer.k)}
            if layer.groups > 1:
                yield f"{name}_split", "Reshape", {}
            yield name, "LRN", {"size": layer.size, **numbers}
            if layer.groups > 1:
                yield f"{name}_join", "Reshape", {}
        case SpatialNorm():
            window = {"kernel_shape": (layer.size,) * 2, "strides": (1, 1), "pads": (layer.size // 2,) * 4}
            yield f"{name}_square", "Mul", {}
            yield f"{name}_mean", "AveragePool", {**window, "count_include_pad": 1}
            yield f"{name}_scaled", "Mul", {}
            yield f"{name}_shifted", "Add", {}
            yield f"{name}_factor", "Pow", {}
            yield name, "Mul", {}
        case Relu():
            yield name, "Relu", {}
        case Tanh():
            yield name, "Tanh", {}
        case Dropout():
            pass


def _pool_window(layer: MaxPool | AveragePool) -> dict[str, AttributeValue]:
    return _window(layer) | ({"pads": layer.margins} if any(layer.margins) else {})


def _window(layer: Conv | MaxPool | AveragePool) -> dict[str, AttributeValue]:
    return {"kernel_shape": (layer.kernel,) * 2, "strides": (layer.stride,) * 2}


def _as_float32(value: float) -> float:
    number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return number
