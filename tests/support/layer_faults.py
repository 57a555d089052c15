"""Faults of running engines: a wrapper around a backend's opener changes one layer of every graph that it opens.

The bundle, its graph and its table stay sound: only what runs is wrong.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from alexnet_deploy.engines.engine import Engine, GraphSource
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.export.layers.taps import halves_of

Disturb = Callable[["Place"], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault is planted: the tensor `name` is computed as `sound`, and what is added makes `name` of it."""

    graph: onnx.GraphProto
    name: str
    sound: str
    shape: tuple[int | str, ...]
    is_half: bool
    added: list[onnx.NodeProto]

    def constant(self, values: np.ndarray) -> str:
        name = f"{self.name}_fault{len(self.graph.initializer)}"
        if values.dtype.kind == "f":
            values = values.astype(np.float16 if self.is_half else np.float32)
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: object) -> None:
        self.added.append(helper.make_node(op, inputs, [self.name], name=f"{self.name}_fault", **attributes))


def plant(
    monkeypatch: pytest.MonkeyPatch, tensor: str, disturb: Disturb, *, only_without_added_outputs: bool = False
) -> None:
    """Disturb a tensor in every graph that a backend opens from now on."""
    for backend in BACKENDS:
        module = importlib.import_module(f"alexnet_deploy.engines.backends.{backend}")
        opener = module.open_graph

        def opened(source: GraphSource, opener: Callable[..., Engine] = opener, **settings: object) -> Engine:
            has_added = len(onnx.load_model_from_string(source.data).graph.output) > 1
            is_sound = only_without_added_outputs and has_added
            data = source.data if is_sound else _disturbed(source.data, tensor, disturb)
            return opener(replace(source, data=data), **settings)

        monkeypatch.setattr(module, "open_graph", opened)


def _disturbed(data: bytes, tensor: str, disturb: Disturb) -> bytes:
    model = onnx.load_model_from_string(data)
    graph = model.graph
    infos = onnx.shape_inference.infer_shapes(model).graph
    (info,) = (info for info in [*infos.value_info, *infos.output] if info.name == tensor)
    shape = tuple(size.dim_value or size.dim_param for size in info.type.tensor_type.shape.dim)
    (index,) = (index for index, node in enumerate(graph.node) if tensor in node.output)
    place = Place(graph, tensor, f"{tensor}_sound", shape, tensor in halves_of(graph), [])
    graph.node[index].output[0] = place.sound
    disturb(place)
    for offset, node in enumerate(place.added):
        graph.node.insert(index + 1 + offset, node)
    return bytes(model.SerializeToString())


def times(factor: float) -> Disturb:
    return lambda place: place.node("Mul", [place.sound, place.constant(np.array(factor))])


def dropped(place: Place) -> None:
    """The node's result is its input."""
    (node,) = (node for node in place.graph.node if place.sound in node.output)
    place.node("Identity", [node.input[0]])


def biased(amount: float, channel: int = 0) -> Disturb:
    def disturb(place: Place) -> None:
        bias = np.zeros((1, int(place.shape[1]), *[1] * (len(place.shape) - 2)))
        bias[0, channel] = amount
        place.node("Add", [place.sound, place.constant(bias)])

    return disturb


def reordered(axis: int, order: Callable[[int], np.ndarray]) -> Disturb:
    def disturb(place: Place) -> None:
        indices = place.constant(order(int(place.shape[axis])).astype(np.int64))
        place.node("Gather", [place.sound, indices], axis=axis)

    return disturb


def swapped(first: int, second: int) -> Disturb:
    def order(size: int) -> np.ndarray:
        indices = np.arange(size)
        indices[[first, second]] = indices[[second, first]]
        return indices

    return reordered(1, order)


mirrored = reordered(3, lambda size: np.arange(size)[::-1])
moved_by_a_pixel = reordered(3, lambda size: np.maximum(np.arange(size) - 1, 0))


def without_border(place: Place) -> None:
    """Zeros in the outermost rows and columns."""
    mask = np.zeros((1, 1, int(place.shape[2]), int(place.shape[3])))
    mask[:, :, 1:-1, 1:-1] = 1.0
    place.node("Mul", [place.sound, place.constant(mask)])


def clipped(limit: float) -> Disturb:
    return lambda place: place.node("Min", [place.sound, place.constant(np.array(limit))])
