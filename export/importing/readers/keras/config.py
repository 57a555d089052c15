"""The layers that a Keras model's config tells, in order of execution: of Keras 1, 2 and 3.

A config is JSON. Nothing of it is imported or run: layers of other modules and Lambda layers are refused by name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.export.importing.readers.keras.contents import KerasError

_MOST_LAYERS = 200
_MODELS = ("Sequential", "Functional", "Model")
_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasLayer:
    """One layer as its config tells it."""

    kind: str
    """The name of its class, such as Conv2D."""
    name: str
    stored_name: str
    """What archives call it: its class in small letters, numbered."""
    settings: Mapping[str, object]
    call: Mapping[str, object]
    """Arguments of the call, beside its input."""

    def get(self, *names: str) -> object:
        """Return a setting by the first of its names that is there: Keras 1 has others; None where there is none."""
        return next((self.settings[name] for name in names if name in self.settings), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    layer: KerasLayer
    inputs: tuple[str, ...]


def read_config(text: str | bytes) -> tuple[KerasLayer, ...]:
    """Return a model's layers from the image to the class scores.

    Raises KerasError for a model that is not a chain of layers, and for layers that hold code.
    """
    try:
        model = from_json(text, dict[str, object])
    except msgspec.DecodeError as error:
        raise KerasError(f"its config is damaged: {error}") from error
    kind, config = model.get("class_name"), model.get("config")
    if kind not in _MODELS:
        raise KerasError(f"holds a {str(kind)[:60]}; only Sequential and Functional models tell their layers")
    listed = config.get("layers") if isinstance(config, dict) else config
    if not isinstance(listed, list) or not listed or len(listed) > _MOST_LAYERS:
        raise KerasError("its config has no list of layers, or too long a list")
    nodes = list(_nodes(listed))
    if kind == "Sequential":
        return tuple(node.layer for node in nodes)
    return _chain(nodes, config.get("output_layers") if isinstance(config, dict) else None)


def _nodes(listed: list[object]) -> Iterator[_Node]:
    used: dict[str, int] = {}
    names: set[str] = set()
    for number, entry in enumerate(listed, start=1):
        settings = entry.get("config") if isinstance(entry, dict) else None
        kind = entry.get("class_name") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(settings, dict) or not isinstance(kind, str):
            raise KerasError(f"layer {number} of its config has no class and settings")
        given = entry.get("name", settings.get("name"))
        name = given if isinstance(given, str) and given else f"layer {number}"
        if name in names:
            raise KerasError(f"two layers of its config are called {name[:100]}")
        names.add(name)
        _refuse_code(name, kind, entry)
        stored = _small_letters(kind)
        count = used.get(stored, 0)
        used[stored] = count + 1
        inputs, call = _inputs(name, entry.get("inbound_nodes"))
        yield _Node(
            layer=KerasLayer(
                kind=kind,
                name=name,
                stored_name=f"{stored}_{count}" if count else stored,
                settings=settings,
                call=call,
            ),
            inputs=inputs,
        )


def _refuse_code(name: str, kind: str, entry: Mapping[str, object]) -> None:
    """Raise KerasError for a layer whose meaning is code: Lambda, and classes of other modules."""
    if kind == "Lambda":
        raise KerasError(f"{name}: is a Lambda layer, which is code, and is not run; replace it by layers of Keras")
    if kind in _MODELS:
        raise KerasError(f"{name}: is a model within the model, which is not supported")
    module, registered = entry.get("module"), entry.get("registered_name")
    is_known = module is None or module == "keras" or str(module).startswith("keras.")
    if not is_known or (isinstance(registered, str) and ">" in registered):
        raise KerasError(f"{name}: is a {kind[:60]} of a program of its own, whose code is not in the file")


def _small_letters(kind: str) -> str:
    """Return a class's name as archives have it. Source: keras/src/utils/naming.py, to_snake_case."""
    kind = re.sub(r"\W+", "", kind)
    kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()


def _inputs(name: str, nodes: object) -> tuple[tuple[str, ...], Mapping[str, object]]:
    """Return the layers that feed a layer, and the other arguments of its only call; empty where it is not called."""
    if nodes is None or nodes == []:
        return (), _NOTHING
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise KerasError(f"{name}: is called more than once; only a chain of layers can be imported")
    node = nodes[0]
    if isinstance(node, dict):
        # Keras 3: tensors among the arguments of a call.
        given, call = node.get("args"), node.get("kwargs")
        histories: list[object] = [_history(tensor) for tensor in given] if isinstance(given, list) else [None]
    else:
        # Keras 1 and 2: [[layer, node, tensor, arguments]], without the outer list where a function is the layer.
        calls = node if isinstance(node, list) and node and isinstance(node[0], list) else [node]
        histories = [one[0] if isinstance(one, list) and one and isinstance(one[0], str) else None for one in calls]
        call = calls[0][3] if isinstance(calls[0], list) and len(calls[0]) > 3 else {}
    feeding = tuple(history for history in histories if isinstance(history, str))
    if len(feeding) != 1 or len(histories) != 1 or not isinstance(call, dict):
        raise KerasError(f"{name}: takes {len(histories)} inputs; only a chain of layers can be imported")
    return feeding, call


def _history(tensor: object) -> object:
    config = tensor.get("config") if isinstance(tensor, dict) else None
    history = config.get("keras_history") if isinstance(config, dict) else None
    return history[0] if isinstance(history, list) and history else None


def _chain(nodes: list[_Node], outputs: object) -> tuple[KerasLayer, ...]:
    """Return the layers of a graph that is a chain, in order; raises KerasError for one that branches."""
    starts = [node for node in nodes if not node.inputs]
    if len(starts) != 1:
        raise KerasError(f"its network has {len(starts)} inputs, where one is needed")
    after: dict[str, _Node] = {}
    for node in nodes:
        for name in node.inputs:
            if name in after:
                raise KerasError(f"{node.layer.name}: is the second layer after {name[:100]}; only a chain of layers")
            after[name] = node
    chain = [starts[0].layer]
    while (following := after.get(chain[-1].name)) is not None:
        chain.append(following.layer)
    if len(chain) != len(nodes):
        left = next(node.layer.name for node in nodes if node.layer.name not in {layer.name for layer in chain})
        raise KerasError(f"{left}: is not on the way from the image to the class scores")
    while isinstance(outputs, list) and outputs and isinstance(outputs[0], list):
        if len(outputs) > 1:
            raise KerasError(f"its network has {len(outputs)} outputs, where one is needed")
        outputs = outputs[0]
    if isinstance(outputs, list) and outputs and outputs[0] != chain[-1].name:
        raise KerasError(f"its output is {str(outputs[0])[:100]}, which is not its last layer, {chain[-1].name}")
    return tuple(chain)
