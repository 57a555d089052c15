"""Recognise a source as one of our networks: a member of the family, or a new table.

The result depends on the layers, their order, their shapes and their constants; never on the file's name.
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

# Tried in this order if neither the file nor its source defines the input size.
_USUAL_SIZES = (227, 224)

_TRAINED_AT = 227
"""Input size in training of Caffe's networks; at 224, which some files state, their pooling drops pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A source as one of our networks."""

    source: Source
    """With complete layers and preprocessing."""
    architecture: Architecture
    """The table."""
    tensors: Mapping[str, np.ndarray]
    """float32, under the table's names."""
    preprocessing: Preprocessing
    """The input of the table's first layer."""
    mean_image: np.ndarray | None
    """See Weights.mean_image."""
    labels: tuple[str, ...]
    """One name for each class."""
    assumptions: tuple[Assumption, ...]
    """Facts from neither the file nor the options."""


def recognise(completed: Completed, overrides: Overrides) -> Recognised:
    """Return a source as one of our networks.

    Raises WeightsError if our tables cannot express it, naming the first layer that does not fit; UsageError if another
    architecture was requested.
    """
    assumptions = list(completed.assumptions)
    try:
        if overrides.table is None:
            translated = _fitting(completed, assumptions)
            _check_kinship(completed.source, translated)
        else:
            translated = translate(completed.source, overrides.table.input_size)
    except WeightsError as error:
        if completed.layers_of is None:
            raise
        raise WeightsError(
            f"{error}; the file holds no layers, so those of {completed.layers_of} were tried: give others with --arch"
        ) from error
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
        mean_image=_mean_image(fed),
        labels=_labels(source, architecture.num_classes, overrides, assumptions),
        assumptions=tuple(assumptions),
    )


def _fitting(completed: Completed, assumptions: list[Assumption]) -> Translated:
    """Return the source in our layers, at the first input size that fits."""
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
        reason = f"at the file's {said}, pooling drops pixels; such networks were trained at {size}"
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
            f"{source.path}: has {num_convolutions} convolutions and {num_linear} fully connected layers; "
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
        table = overrides.table
    elif source.table is not None and asked is None and _equals(found, source.table):
        return source.table, nearest
    elif member is not None and asked in (None, member):
        table = ARCHITECTURES[member]
    else:
        table = _as_custom(found, asked, nearest)
    try:
        return table.with_num_classes(found.num_classes), nearest
    except (ValueError, UsageError) as error:
        raise WeightsError(f"{source.path}: {error}") from error


def _as_custom(found: Architecture, asked: str | None, nearest: str) -> Architecture:
    """Return a new table under the name that was asked for, or after the nearest member of the family."""
    if asked is None or asked in ARCHITECTURES:
        return msgspec.structs.replace(found, name=f"{nearest}-custom")
    try:
        return msgspec.structs.replace(found, name=asked)
    except ValueError as error:
        raise UsageError(f"--arch: {error}") from error


def _table_of(source: Source, translated: Translated) -> Architecture:
    try:
        return Architecture(name="unnamed", input_size=translated.input_size, layers=translated.layers)
    except ValueError as error:
        raise WeightsError(f"{source.path}: {error}") from error


def _check_table(source: Source, found: Architecture, table: Architecture) -> None:
    """Raise UsageError if a source's layers differ from the user's table; it names the first that differs."""
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
    """Return the member of the family with these layers, ignoring the number of classes and dropout."""
    return next((name for name, member in ARCHITECTURES.items() if _equals(found, member)), None)


def _equals(found: Architecture, table: Architecture) -> bool:
    return table.input_size == found.input_size and _skeleton(table) == _skeleton(found)


def _nearest(found: Architecture, preferred: str | None) -> str:
    """Return the most similar member; widths count last, and of equals the preferred one wins, then the first."""

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
    assert fed.resize is not None, "filled in"
    assert fed.channel_order is not None, "filled in"
    mean = fed.mean if fed.mean_image is None else fed.mean_image.channel_means(fed.channel_order)
    assert mean is not None, "filled in"
    assert fed.scale is not None, "filled in"
    try:
        return Preprocessing(
            resize=fed.resize,
            decode=fed.decode,
            channel_order=fed.channel_order,
            mean=mean,
            scale=fed.scale,
            has_mean_image=fed.mean_image is not None,
        )
    except ValueError as error:
        raise WeightsError(f"{source.path}: {error}") from error


def _mean_image(fed: SourcePreprocessing) -> np.ndarray | None:
    assert fed.channel_order is not None, "filled in"
    return None if fed.mean_image is None else fed.mean_image.in_rgb(fed.channel_order)


def _labels(source: Source, num_classes: int, overrides: Overrides, assumptions: list[Assumption]) -> tuple[str, ...]:
    if source.labels is not None:
        try:
            check_labels(source.labels, num_classes)
        except WeightsError as error:
            if overrides.labels is not None:
                raise UsageError(f"{source.path}: {error}; correct --labels or --classes") from error
            raise WeightsError(f"{source.path}: {error}; name the classes with --labels") from error
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
