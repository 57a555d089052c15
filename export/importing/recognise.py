"""A source as a network of ours: a member of the family, or a table of its own.

Which it is follows from the layers, their order, their shapes and their constants; never from the file's name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import zip_longest

import msgspec
import numpy as np

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    adaptive_window,
)
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.labels import check_labels, imagenet_labels
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.export.importing.assume import Completed, Overrides, fill_preprocessing
from alexnet_deploy.export.importing.known import known_as
from alexnet_deploy.export.importing.source import Assumption, Convolve, Source, SourcePreprocessing
from alexnet_deploy.export.importing.translate import Translated, translate

_NUM_CONVOLUTIONS = 5
_FEWEST_LINEAR, _MOST_LINEAR = 2, 4

# Tried in this order where neither the file nor its source says the size of the input.
_USUAL_SIZES = (227, 224)

_TRAINED_AT = 227
"""Pixels at which Caffe's networks were trained; files for 224 leave pixels out at their poolings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A source as a network of ours."""

    source: Source
    """With its layers and all that its network is fed."""
    architecture: Architecture
    """The table."""
    tensors: Mapping[str, np.ndarray]
    """float32, under the table's names."""
    preprocessing: Preprocessing
    """What the table's first layer is fed."""
    labels: tuple[str, ...]
    """One name a class."""
    assumptions: tuple[Assumption, ...]
    """What neither the file nor the request said."""


def recognise(completed: Completed, overrides: Overrides) -> Recognised:
    """Return a source as a network of ours.

    Raises WeightsError, naming the first layer that does not fit, where our tables cannot say it, and UsageError where
    another architecture was asked for.
    """
    assumptions = list(completed.assumptions)
    if overrides.table is None:
        translated = _fitting(completed, assumptions)
        _check_kinship(completed.source, translated)
    else:
        translated = translate(completed.source, overrides.table.input_size)
    architecture, nearest = _named(completed, translated, overrides)
    fed = fill_preprocessing(
        replace(completed.source.preprocessing, input_size=translated.input_size),
        completed.known or known_as(nearest),
        overrides,
        assumptions,
    )
    source = replace(completed.source, preprocessing=fed)
    return Recognised(
        source=source,
        architecture=architecture,
        tensors=_renamed(translated, architecture),
        preprocessing=_preprocessing(source, fed),
        labels=_labels(source, architecture.num_classes, assumptions),
        assumptions=tuple(assumptions),
    )


def _fitting(completed: Completed, assumptions: list[Assumption]) -> Translated:
    """Return the source in our layers, at the first size of input at which it fits them."""
    source, known = completed.source, completed.known
    said = source.preprocessing.input_size
    usual = None if known is None else known.preprocessing.input_size
    sizes = dict.fromkeys((said, _TRAINED_AT) if said else (usual,) if usual else _USUAL_SIZES)
    first: WeightsError | None = None
    for size in sizes:
        try:
            translated = translate(source, size)
        except WeightsError as error:
            first = first or error
            continue
        if size != said:
            if said is not None and _member(_table_of(source, translated)) is None:
                break
            assumptions.append(_about_size(size, said, "its layers fit at this size" if known is None else known.words))
        return translated
    assert first is not None, "a size was tried"
    raise first


def _about_size(size: int, said: int | None, reason: str) -> Assumption:
    if said is not None:
        reason = f"the file says {said}, where pooling drops pixels; such networks were trained at {size}"
    return Assumption(subject="input size", value=str(size), reason=reason, option=None)


def _check_kinship(source: Source, translated: Translated) -> None:
    """Raise WeightsError unless it has five convolutions and two to four fully connected layers."""
    convolutions = [layer.name for layer in source.layers or () if isinstance(layer, Convolve)]
    num_convolutions = sum(isinstance(layer, Conv) for layer in translated.layers)
    num_linear = sum(isinstance(layer, Linear) for layer in translated.layers)
    if num_convolutions > _NUM_CONVOLUTIONS:
        name = convolutions[_NUM_CONVOLUTIONS]
        raise WeightsError(f"{source.path}: {name} is a sixth convolution; AlexNet-like networks have five")
    if num_convolutions < _NUM_CONVOLUTIONS or not _FEWEST_LINEAR <= num_linear <= _MOST_LINEAR:
        raise WeightsError(
            f"{source.path}: has {num_convolutions} convolutions and {num_linear} fully connected layers, where "
            f"AlexNet-like networks have {_NUM_CONVOLUTIONS} and {_FEWEST_LINEAR} to {_MOST_LINEAR}"
        )


def _named(completed: Completed, translated: Translated, overrides: Overrides) -> tuple[Architecture, str]:
    """Return the table, named, and the name of the nearest member of the family."""
    source, asked, found = completed.source, overrides.architecture, _table_of(completed.source, translated)
    member = _member(found)
    nearest = member or _nearest(found, None if completed.known is None else completed.known.architecture)
    if asked in ARCHITECTURES and asked != nearest:
        raise UsageError(f"{source.path}: its layers are those of {nearest}, not of {asked}; leave --arch out")
    if overrides.table is not None:
        _check_table(source, found, overrides.table)
    try:
        if overrides.table is not None:
            return overrides.table.with_num_classes(found.num_classes), nearest
        if source.table is not None and asked is None and _equals(found, source.table):
            return source.table, nearest
        if member is not None and asked in (None, member):
            return ARCHITECTURES[member].with_num_classes(found.num_classes), member
        name = asked if asked is not None and asked not in ARCHITECTURES else f"{nearest}-custom"
        return msgspec.structs.replace(found, name=name).with_num_classes(found.num_classes), nearest
    except (ValueError, UsageError) as error:
        raise WeightsError(f"{source.path}: {error}") from error


def _table_of(source: Source, translated: Translated) -> Architecture:
    try:
        return Architecture(name="unnamed", input_size=translated.input_size, layers=translated.layers)
    except ValueError as error:
        raise WeightsError(f"{source.path}: {error}") from error


def _check_table(source: Source, found: Architecture, table: Architecture) -> None:
    """Raise UsageError, naming the first layer, where a source's layers are not those of the user's table."""
    of_source, of_table = ({layer.name: layer for layer in one.layers} for one in (found, table))
    for theirs, ours in zip_longest(_compared(found), _compared(table)):
        if ours is None:
            words = _words(of_source[theirs.name])
            raise UsageError(f"{source.path}: has {words} after the last layer of {table.name}")
        if theirs is None:
            raise UsageError(f"{source.path}: ends before {ours.name} of {table.name}")
        if msgspec.structs.replace(theirs, name=ours.name) != ours:
            needed, has = _words(of_table[ours.name]), _words(of_source[theirs.name])
            raise UsageError(
                f"{source.path}: does not match {table.name}: {ours.name} is {needed} in the table, and the file "
                f"has {has}"
            )


def _words(layer: Layer) -> str:
    fields = {name: value for name, value in msgspec.to_builtins(layer).items() if name not in ("type", "name")}
    values = ", ".join(f"{name} {list(value) if isinstance(value, tuple) else value}" for name, value in fields.items())
    kind = str(layer.__struct_config__.tag)
    return f"{kind} ({values})" if values else kind


def _member(found: Architecture) -> str | None:
    """Return the member of the family that these layers are, but for the number of classes and for dropout."""
    return next((name for name, member in ARCHITECTURES.items() if _equals(found, member)), None)


def _equals(found: Architecture, table: Architecture) -> bool:
    return table.input_size == found.input_size and _skeleton(table) == _skeleton(found)


def _nearest(found: Architecture, preferred: str | None) -> str:
    """Return the member whose layers are the most alike, widths last; of equals the preferred one, then the first."""

    def likeness(name: str) -> tuple[float, float, bool]:
        without, with_widths = (
            SequenceMatcher(
                a=_skeleton(found, keep_widths=keep),
                b=_skeleton(ARCHITECTURES[name], keep_widths=keep),
                autojunk=False,
            ).ratio()
            for keep in (False, True)
        )
        return without, with_widths, name == preferred

    return max(ARCHITECTURES, key=likeness)


def _skeleton(table: Architecture, *, keep_widths: bool = True) -> tuple[Layer, ...]:
    """Return layers without names, dropout and the number of classes."""
    found: list[Layer] = []
    for layer in _compared(table):
        match layer:
            case Linear() if not keep_widths:
                layer = msgspec.structs.replace(layer, out_features=1)
            case Conv() if not keep_widths:
                layer = msgspec.structs.replace(layer, out_channels=layer.groups)
        found.append(msgspec.structs.replace(layer, name="_"))
    return tuple(found)


def _compared(table: Architecture) -> Iterator[Layer]:
    """Yield the layers that decide what a network computes, each in one form, but for the number of classes.

    Dropout and pools of one pixel do nothing, and an adaptive pool is the average pool of its window. The stride of a
    single window and the number of classes do not matter.
    """
    for cost in table.costs():
        layer = cost.layer
        if isinstance(layer, AdaptiveAveragePool):
            layer = adaptive_window(layer, cost.in_shape)
        match layer:
            case Dropout():
                continue
            case Linear() if layer.name == table.layers[-1].name:
                layer = msgspec.structs.replace(layer, out_features=1)
            case MaxPool() | AveragePool():
                if layer.kernel == layer.stride == 1:
                    continue
                if cost.out_shape[1:] == (1, 1):
                    layer = msgspec.structs.replace(layer, stride=1)
            case _:
                pass
        yield layer


def _renamed(translated: Translated, architecture: Architecture) -> dict[str, np.ndarray]:
    tensors = (np.ascontiguousarray(tensor) for tensor in translated.tensors.values())
    return dict(zip(architecture.tensor_shapes(), tensors, strict=True))


def _preprocessing(source: Source, fed: SourcePreprocessing) -> Preprocessing:
    if fed.mean_image is not None:
        raise WeightsError(f"{source.path}: its mean is an image, which is not in our graphs; give three with --mean")
    assert fed.resize is not None, "filled in"
    assert fed.channel_order is not None, "filled in"
    assert fed.mean is not None, "filled in"
    assert fed.scale is not None, "filled in"
    try:
        return Preprocessing(resize=fed.resize, channel_order=fed.channel_order, mean=fed.mean, scale=fed.scale)
    except ValueError as error:
        raise WeightsError(f"{source.path}: {error}") from error


def _labels(source: Source, num_classes: int, assumptions: list[Assumption]) -> tuple[str, ...]:
    if source.labels is not None:
        try:
            check_labels(source.labels, num_classes)
        except WeightsError as error:
            raise WeightsError(f"{source.path}: {error}") from error
        return source.labels
    names = imagenet_labels()
    is_imagenet = num_classes == len(names)
    assumptions.append(
        Assumption(
            subject="labels",
            value="ImageNet's, in the usual order" if is_imagenet else f"class 0 to class {num_classes - 1}",
            reason=f"the file does not name its {num_classes:,} classes",
            option="--labels",
        )
    )
    return names if is_imagenet else tuple(f"class {number}" for number in range(num_classes))
