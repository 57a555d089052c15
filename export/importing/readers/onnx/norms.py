"""Normalisations that consist of several nodes: a decomposed LRN, LRN within columns, and the spatial one.

torch's exporter decomposes LRN:

    x^2 -> (Unsqueeze or Reshape) -> Pad -> AveragePool -> (Squeeze or Reshape) -> * alpha -> + k -> ** beta -> x / it

Nodes that compute shapes and pads in between are not read: the proof compares the whole with the file itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_deploy.export.importing.readers.onnx.graph import Graph, Node
from alexnet_deploy.export.importing.source import Normalise, SourceLayer, SpatialNormalise

_RESHAPING = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Identity"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mean:
    """(k + alpha * mean of squares) ** exponent, of one value."""

    pool: Node
    """The AveragePool."""
    alpha: float
    k: float
    exponent: float

    @property
    def window(self) -> tuple[int, ...]:
        """Sides of the window, in the order of the pooling's axes."""
        return self.pool.list("kernel_shape", ())


def match_norm(graph: Graph, value: str, takers: Sequence[Node]) -> tuple[SourceLayer, str] | None:
    """Return the normalisation of `value` that starts at its readers, and its output; None if there is none."""
    for node in takers:
        if node.op in ("Div", "Mul") and node.inputs[0] == value != node.inputs[1]:
            mean = _mean_of_squares(graph, node.inputs[1], value)
            layer = None if mean is None else _layer(node, mean)
            if layer is not None:
                return layer, node.output
    return _within_columns(graph, takers) if len(takers) == 1 else None


def _layer(node: Node, mean: _Mean) -> SourceLayer | None:
    sides = [side for side in mean.window if side > 1]
    if node.op == "Div" and len(sides) == 1 and len(mean.window) > 1:
        return Normalise(
            name=node.name,
            size=sides[0],
            alpha=mean.alpha,
            alpha_is_divided=True,
            beta=mean.exponent,
            k=mean.k,
        )
    if node.op == "Mul" and len(sides) == 2 == len(mean.window) and sides[0] == sides[1]:
        return SpatialNormalise(name=node.name, size=sides[0], alpha=mean.alpha, beta=-mean.exponent, k=mean.k)
    return None


def _mean_of_squares(graph: Graph, name: str, value: str) -> _Mean | None:
    """Walk back from a factor to the squares of `value`; None if it is something else."""
    power = graph.made_by.get(name)
    if power is None or power.op != "Pow" or (exponent := _scalar(graph, power.inputs[1])) is None:
        return None
    shifted, k = _with_scalar(graph, power.inputs[0], "Add")
    scaled, alpha = _with_scalar(graph, shifted, "Mul")
    pool = _back(graph, scaled, _RESHAPING)
    if k is None or alpha is None or pool is None or pool.op != "AveragePool" or not pool.inputs:
        return None
    square = _back(graph, pool.inputs[0], _RESHAPING | {"Pad"})
    if square is None or set(pool.list("strides", ())) - {1}:
        return None
    is_square = square.op == "Mul" and square.inputs == (value, value)
    is_power = square.op == "Pow" and square.inputs[0] == value and _scalar(graph, square.inputs[1]) == 2
    return _Mean(pool=pool, alpha=alpha, k=k, exponent=exponent) if is_square or is_power else None


def _with_scalar(graph: Graph, name: str, op: str) -> tuple[str, float | None]:
    """Return the input of a node of this kind beside its single constant, and the constant; None for another node."""
    node = graph.made_by.get(name)
    if node is None or node.op != op or len(node.inputs) != 2:
        return "", None
    for inner, constant in (node.inputs, node.inputs[::-1]):
        if (value := _scalar(graph, constant)) is not None:
            return inner, value
    return "", None


def _scalar(graph: Graph, name: str) -> float | None:
    value = graph.constant(name)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def _back(graph: Graph, name: str, passed: frozenset[str]) -> Node | None:
    """Return the last node before a value that is of none of these kinds."""
    node = graph.made_by.get(name)
    while node is not None and (node.op in passed or node.op == "If"):
        before = _of_branches(node, passed) if node.op == "If" else next(iter(node.inputs), "")
        node = graph.made_by.get(before)
    return node


def _of_branches(node: Node, passed: frozenset[str]) -> str:
    """Return the input of both branches of an If, each with one node of these kinds: a Squeeze, or an Identity."""
    branches = [attribute.g.node for attribute in node.proto.attribute]
    found = {next(iter(one.input), "") for branch in branches for one in branch if one.op_type in passed}
    return found.pop() if len(found) == 1 else ""


def _within_columns(graph: Graph, takers: Sequence[Node]) -> tuple[SourceLayer, str] | None:
    """Match Reshape -> LRN -> Reshape, in which each column becomes a separate image."""
    split = takers[0]
    following = [split]
    while len(following) < 3:
        after = graph.taken_by.get(following[-1].output, [])
        if len(after) != 1:
            return None
        following.append(after[0])
    if [node.op for node in following] != ["Reshape", "LRN", "Reshape"]:
        return None
    _, norm, join = following
    shapes = [graph.constant(node.inputs[1]) for node in (split, join)]
    columns, whole = ([] if shape is None else shape.tolist() for shape in shapes)
    if len(columns) != 4 or len(whole) != 4 or columns[0] != -1 or whole[0] != -1 or columns[2:] != whole[2:]:
        return None
    if columns[1] < 1 or whole[1] % columns[1]:
        return None
    layer = Normalise(
        name=norm.name,
        size=norm.whole("size", 0),
        alpha=norm.number("alpha", 1e-4),
        alpha_is_divided=True,
        beta=norm.number("beta", 0.75),
        k=norm.number("bias", 1.0),
        groups=whole[1] // columns[1],
    )
    return layer, join.output
