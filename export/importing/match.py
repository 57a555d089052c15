"""Find the layers of a file that contains only tensors: by their names, or by their shapes in order."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    SpatialNorm,
    Tanh,
)
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.export.importing.known import KNOWN, KnownSource, known_as
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Scale,
    Source,
    SourceLayer,
    SpatialNormalise,
    Unroll,
)

# Strides and paddings are only known for the kernels that the networks of the family have.
_KERNELS = (11, 5, 3, 3, 3)

# Of members with the same shapes, the most widespread one.
_MOST_COMMON = ("torchvision", "caffe", "single_tower", *ARCHITECTURES)


# torch's default, which a state dict does not hold.
_EPSILON = 1e-5
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The layers found for a source that contains only tensors, and the reason."""

    known: KnownSource | None
    """More facts about such files; None if there are none."""
    layers: tuple[SourceLayer, ...]
    reason: str
    """In words."""
    layers_of: str
    """Name of the table that they were taken from."""


def match_layers(source: Source, asked: str | None, table: Architecture | None = None) -> Matched:
    """Return the layers that use a source's tensors; `asked` is the member given with --arch, `table` the user's own.

    Raises WeightsError if the tensors match no known source, or do not match `asked`; UsageError if they do not match
    `table`.
    """
    named = [known for known in _candidates(source) if set(known.tensor_names) == source.tensors.keys()]
    if table is not None:
        like = named[0] if named else KNOWN.get(source.origin or "") if source.trained is not None else None
        trained = _trained(source, like)
        _check_shapes(source, table, trained)
        known = None if like is None else replace(like, preprocessing=replace(like.preprocessing, input_size=None))
        layers = _layers_of(source, table, trained)
        return Matched(known=known, layers=layers, reason="as asked for", layers_of=table.name)
    if asked is None and named:
        known, *_ = named
        assert known.layers is not None, "it has tensors"
        layers, reason = known.layers, f"{known.words}, whose tensors have these names; the file holds no layers"
    elif asked is not None:
        known = _said_to_be(named[0], asked) if named else _known_as(source, asked)
        layers, reason = _layers_of(source, ARCHITECTURES[asked], _trained(source, known)), "as asked for"
    else:
        name, reason = _by_shapes(source)
        known = _known_as(source, name)
        layers = _layers_of(source, ARCHITECTURES[name], _trained(source, known))
    _check_kernels(source, layers)
    return Matched(known=known, layers=layers, reason=reason, layers_of=known.architecture or known.key)


def _known_as(source: Source, member: str) -> KnownSource:
    """Return what is known of a file whose layers are a member's: what its own program does, where that is known."""
    if source.trained is not None and source.origin is not None:
        return _said_to_be(KNOWN[source.origin], member)
    return known_as(member)


def _said_to_be(known: KnownSource, asked: str) -> KnownSource:
    fed = replace(known.preprocessing, input_size=ARCHITECTURES[asked].input_size)
    return replace(known, architecture=asked, preprocessing=fed)


def _candidates(source: Source) -> Iterator[KnownSource]:
    if source.origin is not None:
        yield KNOWN[source.origin]
    else:
        yield from (known for known in KNOWN.values() if known.layers is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    convolutions: tuple[Convolve, ...]
    connections: tuple[Connect, ...]
    unroll: Unroll
    scales: Mapping[str, Scale]
    """Batch norms, by the name of the layer that they follow."""

    @property
    def layers(self) -> list[Convolve | Connect]:
        """All that have weights, in order."""
        return [*self.convolutions, *self.connections]


def _trained(source: Source, known: KnownSource | None) -> _Trained:
    """Return the layers that have tensors: the known ones, or else those that shapes and names imply."""
    if source.trained is not None:
        # Files that tell these layers and no others are TensorFlow's, whose channels stand last.
        return _Trained(
            convolutions=tuple(layer for layer in source.trained if isinstance(layer, Convolve)),
            connections=tuple(layer for layer in source.trained if isinstance(layer, Connect)),
            unroll=Unroll(name="flatten", order="HWC"),
            scales={},
        )
    if known is not None and known.layers is not None:
        unroll = next((layer for layer in known.layers if isinstance(layer, Unroll)), None)
        return _Trained(
            convolutions=tuple(layer for layer in known.layers if isinstance(layer, Convolve)),
            connections=tuple(layer for layer in known.layers if isinstance(layer, Connect)),
            unroll=unroll or Unroll(name="flatten", order="CHW"),
            scales={},
        )
    found: list[Convolve | Connect] = []
    scales: dict[str, Scale] = {}
    for name in sorted(source.tensors, key=_natural):
        stem, _, kind = name.rpartition(".")
        num_dimensions = source.tensors[name].ndim
        bias = f"{stem}.bias" if f"{stem}.bias" in source.tensors else None
        if kind == "weight" and num_dimensions == 4:
            found.append(Convolve(name=stem, weight=name, bias=bias, layout="OIHW"))
        elif kind == "weight" and num_dimensions == 2:
            found.append(Connect(name=stem, weight=name, bias=bias, layout="OI"))
        elif all(f"{stem}.{part}" in source.tensors for part in _STATISTICS) and found:
            scales[found[-1].name] = _batch_norm(source, stem)
        elif kind != "bias" or f"{stem}.weight" not in source.tensors or num_dimensions != 1:
            raise WeightsError(
                f"{source.path}: {name} of shape {source.tensors[name].shape} is not a weight or bias of a convolution "
                "or fully connected layer, and a file without layers does not say how it is used; export the network "
                "as ONNX and import that"
            )
    return _Trained(
        convolutions=tuple(layer for layer in found if isinstance(layer, Convolve)),
        connections=tuple(layer for layer in found if isinstance(layer, Connect)),
        unroll=Unroll(name="flatten", order="CHW"),
        scales=scales,
    )


def _batch_norm(source: Source, stem: str) -> Scale:
    mean, variance = (f"{stem}.{part}" for part in _STATISTICS)
    scale, shift = (name if name in source.tensors else None for name in (f"{stem}.weight", f"{stem}.bias"))
    return Scale(name=stem, mean=mean, variance=variance, scale=scale, shift=shift, epsilon=_EPSILON)


def _check_shapes(source: Source, table: Architecture, trained: _Trained) -> None:
    """Raise UsageError, naming the first layer, where the tensors are not those of a table but for the classes."""
    wanted = [(cost.layer.name, cost.weight_shape) for cost in table.costs() if cost.weight_shape is not None]
    found: list[Convolve | Connect] = [*trained.convolutions, *trained.connections]
    for place, (layer, (name, needed)) in enumerate(zip(found, wanted, strict=False)):
        shape = _shape_of(source, layer)
        # The last layer may have another number of classes.
        if shape[1:] != needed[1:] or (shape != needed and place < len(wanted) - 1):
            raise UsageError(
                f"{source.path}: {layer.weight} has shape {shape}, where {name} of {table.name} has {needed}"
            )
    if len(found) < len(wanted):
        raise UsageError(f"{source.path}: holds no weights for {wanted[len(found)][0]} of {table.name}")
    if len(found) > len(wanted):
        raise UsageError(f"{source.path}: {found[len(wanted)].weight} is after the last layer of {table.name}")


def _by_shapes(source: Source) -> tuple[str, str]:
    """Return the member with the shapes of these tensors, ignoring the number of classes, and the reason."""
    trained = _trained(source, known_as(_MOST_COMMON[0]))
    found = [_shape_of(source, layer) for layer in trained.layers]
    fitting = [
        name
        for name in dict.fromkeys(_MOST_COMMON)
        if _without_classes(found) == _without_classes(_weight_shapes(ARCHITECTURES[name]))
    ]
    if not fitting:
        raise WeightsError(
            f"{source.path}: {_first_unlike(source, trained)}; the file does not contain its layers: give "
            "the architecture with --arch, or export the network as ONNX and import that"
        )
    name, *others = fitting
    also = f", and those of {', '.join(others)} as well" if others else ""
    return name, f"the tensors have its shapes{also}; the file holds no layers"


def _weight_shapes(architecture: Architecture) -> list[tuple[int, ...]]:
    return [cost.weight_shape for cost in architecture.costs() if cost.weight_shape is not None]


def _shape_of(source: Source, layer: Convolve | Connect) -> tuple[int, ...]:
    """Return the shape of a layer's weights as our tables have it: outputs first."""
    shape = source.tensors[layer.weight].shape
    match layer.layout:
        case "HWIO" if len(shape) == 4:
            height, width, inputs, outputs = shape
            return outputs, inputs, height, width
        case "IO":
            return shape[::-1]
    return shape


def _without_classes(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [*shapes[:-1], *(shape[1:] for shape in shapes[-1:])]


def _first_unlike(source: Source, trained: _Trained) -> str:
    """Name the first tensor that no member of the family has."""
    members = [_weight_shapes(architecture) for architecture in ARCHITECTURES.values()]
    for place, layer in enumerate(trained.layers):
        shape = _shape_of(source, layer)
        members = [shapes for shapes in members if place < len(shapes) and shapes[place] == shape]
        if not members:
            found = source.tensors[layer.weight].shape
            return f"{layer.weight} of shape {found} does not match any architecture of the family at its position"
    return f"{counted(len(source.tensors), 'tensor')} are too few"


def _layers_of(source: Source, table: Architecture, trained: _Trained) -> tuple[SourceLayer, ...]:
    """Return a table's layers as a source's, with the tensors of `trained` in their order."""
    kinds = (("convolution", Conv, trained.convolutions), ("fully connected layer", Linear, trained.connections))
    for words, kind, found in kinds:
        needed = sum(isinstance(layer, kind) for layer in table.layers)
        if len(found) != needed:
            raise WeightsError(
                f"{source.path}: has {counted(len(found), words)}, but {table.name} has {needed}; choose another --arch"
            )
    convolutions, connections = iter(trained.convolutions), iter(trained.connections)
    layers: list[SourceLayer] = []
    for layer in table.layers:
        match layer:
            case Conv():
                place = next(convolutions)
                layers.append(replace(place, stride=layer.stride, padding=layer.padding, groups=layer.groups))
            case Linear():
                layers.append(next(connections))
            case Flatten():
                layers.append(trained.unroll)
            case _:
                layers.append(_without_tensors(layer))
        if isinstance(layer, Conv | Linear) and (scale := trained.scales.get(layers[-1].name)) is not None:
            layers.append(scale)
    return tuple(layers)


def _without_tensors(layer: Layer) -> SourceLayer:
    match layer:
        case Relu():
            return Activate(name=layer.name, function="relu")
        case Tanh():
            return Activate(name=layer.name, function="tanh")
        case Dropout():
            return Drop(name=layer.name, probability=layer.probability)
        case MaxPool() | AveragePool():
            return Pool(
                name=layer.name,
                function="average" if isinstance(layer, AveragePool) else "max",
                kernel=layer.kernel,
                stride=layer.stride,
                padding=layer.margins,
                counts_padding=isinstance(layer, AveragePool) and layer.counts_padding,
            )
        case AdaptiveAveragePool():
            return AdaptivePool(name=layer.name, size=layer.size)
        case LocalNorm():
            return Normalise(
                name=layer.name,
                size=layer.size,
                alpha=layer.alpha,
                alpha_is_divided=True,
                beta=layer.beta,
                k=layer.k,
                groups=layer.groups,
            )
        case SpatialNorm():
            return SpatialNormalise(name=layer.name, size=layer.size, alpha=layer.alpha, beta=layer.beta, k=layer.k)
    raise AssertionError(f"{layer.name} has tensors")


def _check_kernels(source: Source, layers: tuple[SourceLayer, ...]) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, Convolve)]
    for layer, kernel in zip(convolutions, _KERNELS, strict=True):
        shape = source.tensors[layer.weight].shape
        found = shape[2:] if layer.layout == "OIHW" else shape[:2]
        if found != (kernel, kernel):
            raise WeightsError(
                f"{source.path}: {layer.weight} has a kernel of {' x '.join(map(str, found))}, but stride and padding, "
                f"which the file does not contain, are known only for {kernel} x {kernel}"
            )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts features.3 before features.10."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
