"""Changes of a table of layers: layers removed, fields changed by type or name, fewer kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

import msgspec

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.reading import invalid_value_words
from alexnet_deploy.core.model.architecture import Architecture, AveragePool, Conv, Layer, MaxPool, cost_of
from alexnet_deploy.core.model.family import preprocessing_for

LayerValue: TypeAlias = int | float | str | tuple[int, ...]

_TYPES = {str(kind.__struct_config__.tag): kind for kind in get_args(Layer)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """What is changed in a table; true if anything is."""

    remove: tuple[str, ...] = ()
    """Types or names of layers that are removed."""
    layers: Mapping[str, Mapping[str, LayerValue]] = field(default_factory=dict)
    """Fields to change, by type or name; `type` makes another layer of the same name."""
    width: float = 1.0
    """Factor of the kernels of each convolution but the last, as in the paper's section 3.2."""

    def __bool__(self) -> bool:
        return bool(self.remove or self.layers) or self.width != 1


def changed_table(base: Architecture, change: TableChange, name: str) -> Architecture:
    """Return the table with the change, called after both.

    A pool with another kernel or stride gets the padding, at the bottom and on the right, with which its windows tile
    its input. Raises UsageError if the change names a layer that the table does not have, or does not fit.
    """
    for wanted in (*change.remove, *change.layers):
        if not any(_is_meant(layer, wanted) for layer in base.layers):
            raise UsageError(
                f"{name}: {base.name} has no layer {wanted}; it has {', '.join(layer.name for layer in base.layers)}"
            )
    if _kept(base.name) != _kept(new_name := f"{base.name}-{name}"[:64]):
        raise UsageError(
            f"{name}: a changed table of {base.name} would be trained with other resized images than {base.name}; use "
            "--arch paper, or a table of your own"
        )
    kept = [layer for layer in base.layers if not any(_is_meant(layer, wanted) for wanted in change.remove)]
    last_conv = next((layer.name for layer in reversed(kept) if isinstance(layer, Conv)), None)
    layers: list[Layer] = []
    for layer in kept:
        if change.width != 1 and isinstance(layer, Conv) and layer.name != last_conv:
            layer = msgspec.structs.replace(layer, out_channels=max(1, round(change.width * layer.out_channels)))
        for wanted, fields in change.layers.items():
            if _is_meant(layer, wanted):
                layer = _with_fields(layer, fields, name)
        layers.append(layer)
    changed = {layer.name for layer in kept if layer not in layers}
    return _tiled(new_name, base.input_size, layers, changed)


def _kept(name: str) -> tuple[str, str]:
    preprocessing = preprocessing_for(name)
    return preprocessing.resize, preprocessing.channel_order


def _is_meant(layer: Layer, wanted: str) -> bool:
    return wanted in (layer.name, layer.__struct_config__.tag)


def _with_fields(layer: Layer, fields: Mapping[str, LayerValue], subject: str) -> Layer:
    kind = fields.get("type", layer.__struct_config__.tag)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise UsageError(f"{subject}: {layer.name}: type {kind!r} is not one of {', '.join(sorted(_TYPES))}")
    was = msgspec.to_builtins(layer) if _TYPES[kind] is type(layer) else {"name": layer.name}
    wanted = {key: value for key, value in fields.items() if key != "type"}
    is_pool = isinstance(layer, MaxPool | AveragePool) and wanted.keys() & {"kernel", "stride"}
    if is_pool and "padding" not in wanted:
        was.pop("padding", None)
    try:
        changed: Layer = msgspec.convert({**was, **wanted}, _TYPES[kind])
    except msgspec.ValidationError as error:
        raise UsageError(f"{subject}: {layer.name}: {invalid_value_words(error)}") from error
    return changed


def _tiled(name: str, input_size: int, layers: list[Layer], changed: set[str]) -> Architecture:
    """Return the table of these layers, with padding for pools that do not tile their input any more."""
    shape: tuple[int, ...] = (3, input_size, input_size)
    is_changed = False
    try:
        for place, layer in enumerate(layers):
            is_changed = is_changed or layer.name in changed
            # A pool after a changed layer may see a map of another size.
            if is_changed and isinstance(layer, MaxPool | AveragePool):
                layer = layers[place] = _fitted(layer, shape)
            shape = cost_of(layer, shape).out_shape
        return Architecture(name=name, input_size=input_size, layers=tuple(layers))
    except ValueError as error:
        raise UsageError(f"{name}: the changed table does not fit together: {error}") from error


def _fitted(pool: MaxPool | AveragePool, in_shape: tuple[int, ...]) -> MaxPool | AveragePool:
    """Return the pool, with other padding at the bottom and on the right if its windows do not tile the input."""
    top, left, bottom, right = pool.margins
    sides = (in_shape[1] + top + bottom, in_shape[2] + left + right)
    if all((side - pool.kernel) % pool.stride == 0 for side in sides):
        return pool
    down, across = (-(side - pool.kernel) % pool.stride for side in in_shape[1:])
    return msgspec.structs.replace(pool, padding=(0, 0, down, across))
