"""Complete the facts that a file does not contain, from the user's options or from what is known about its source.

Each fact that is not from the file or an option becomes an Assumption, which is printed and recorded.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Architecture, LocalNorm
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, RGB, ChannelOrder, DecodePolicy, ResizePolicy
from alexnet_deploy.export.importing.known import KNOWN, KnownSource
from alexnet_deploy.export.importing.match import match_layers
from alexnet_deploy.export.importing.source import (
    Assumption,
    Connect,
    Convolve,
    MeanImage,
    Normalise,
    Scale,
    Source,
    SourceLayer,
    SourcePreprocessing,
    Unroll,
)

T = TypeVar("T")

MeanImageUse: TypeAlias = Literal["exact", "channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LrnConstants:
    """Constants of local response normalisation, alpha divided by `size` as in torch, ONNX and Caffe."""

    size: int
    alpha: float
    beta: float
    k: float

    def __post_init__(self) -> None:
        """Raise UsageError for constants that our tables do not have."""
        try:
            LocalNorm(name="LRN", size=self.size, alpha=self.alpha, beta=self.beta, k=self.k)
        except ValueError as error:
            raise UsageError(f"--lrn: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """The user's options, which override the file and the assumptions; None if not given."""

    architecture: str | None = None
    """A member of the family, or the name of a new table."""
    table: Architecture | None = None
    """The table that the source must match, except for the number of classes."""
    channel_order: ChannelOrder | None = None
    mean: RGB | MeanImage | None = None
    """Red, green, blue, on 0..255; or the mean image of another file."""
    mean_image: MeanImageUse = "exact"
    """How a mean image is used: as it is, or its three channel means instead."""
    scale: RGB | None = None
    """Red, green, blue: the factor of (pixel - mean)."""
    resize: ResizePolicy | None = None
    decode: DecodePolicy | None = None
    lrn: LrnConstants | None = None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a value that no network can have."""
        if self.scale is not None and not min(self.scale) > 0:
            raise UsageError(f"--scale: must be above 0, got {', '.join(f'{factor:g}' for factor in self.scale)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A source with complete layers."""

    source: Source
    """Its layers are not None."""
    known: KnownSource | None
    """More facts about such files; None if there are none."""
    assumptions: tuple[Assumption, ...]
    """The facts that were assumed."""
    layers_of: str | None
    """The table whose layers were given to a file without layers; None if the file has its own."""


def complete(source: Source, overrides: Overrides) -> Completed:
    """Complete the layers and labels of a source.

    Raises WeightsError if its tensors are unknown, UsageError for an override that contradicts the file.
    """
    assumptions = [found for found in source.assumptions if overrides.mean is None or found.option != _OPTIONS["mean"]]
    layers_of = None
    if source.layers is None:
        asked = overrides.architecture if overrides.architecture in ARCHITECTURES else None
        matched = match_layers(source, asked, overrides.table)
        known, layers, layers_of = matched.known, matched.layers, matched.layers_of
        if known is not None and asked is None and overrides.table is None:
            value = known.architecture or known.key
            assumptions.append(Assumption(subject="architecture", value=value, reason=matched.reason, option="--arch"))
        assumptions.extend(_about_layers(layers, known, overrides))
    else:
        known, layers = KNOWN.get(source.origin or ""), source.layers
    return Completed(
        source=replace(
            source,
            layers=_with_lrn(source, layers, overrides),
            labels=overrides.labels or source.labels,
        ),
        known=known,
        assumptions=tuple(assumptions),
        layers_of=layers_of,
    )


def _about_layers(layers: tuple[SourceLayer, ...], known: KnownSource | None, overrides: Overrides) -> list[Assumption]:
    found = []
    scale = next((layer for layer in layers if isinstance(layer, Scale)), None)
    if scale is not None:
        value = f"directly after the layer before it by name ({scale.name}, ...), epsilon {scale.epsilon:g}"
        reason = "a state dict does not say where its batch norms are, nor their epsilon"
        found.append(Assumption(subject="batch norm", value=value, reason=reason, option=None))
    # A layer before a batch norm usually has none: the shift takes its place.
    plain = [
        layer.name
        for layer, after in zip_longest(layers, layers[1:])
        if isinstance(layer, Convolve | Connect) and layer.bias is None and not isinstance(after, Scale)
    ]
    if plain:
        reason = "the file has no biases for these layers"
        found.append(Assumption(subject="biases", value=f"0 for {', '.join(plain)}", reason=reason, option=None))
    if known is None:
        return found
    norm = next((layer for layer in layers if isinstance(layer, Normalise)), None)
    if norm is not None and overrides.lrn is None and overrides.table is None:
        divided = "divided by it" if norm.alpha_is_divided else "not divided by it"
        value = f"size {norm.size}, alpha {norm.alpha:g} {divided}, beta {norm.beta:g}, k {norm.k:g}"
        found.append(Assumption(subject="LRN", value=value, reason=known.words, option="--lrn"))
    if any(isinstance(layer, Unroll) and layer.order == "HWC" for layer in layers):
        found.append(Assumption(subject="fc6's order", value="H, W, C", reason=known.words, option=None))
    return found


def _with_lrn(source: Source, layers: tuple[SourceLayer, ...], overrides: Overrides) -> tuple[SourceLayer, ...]:
    lrn, table = overrides.lrn, overrides.table
    if lrn is None:
        return layers
    if table is not None:
        raise UsageError(f"{source.path}: {table.name} contains the constants of its LRN, so --lrn does not apply")
    if source.layers is not None or not any(isinstance(layer, Normalise) for layer in layers):
        has = "contains its LRN constants" if source.layers is not None else "its network has no LRN"
        raise UsageError(f"{source.path}: {has}, so --lrn does not apply")
    return tuple(
        Normalise(name=layer.name, size=lrn.size, alpha=lrn.alpha, alpha_is_divided=True, beta=lrn.beta, k=lrn.k)
        if isinstance(layer, Normalise)
        else layer
        for layer in layers
    )


def fill_preprocessing(
    said: SourcePreprocessing, known: KnownSource, overrides: Overrides, assumptions: list[Assumption]
) -> SourcePreprocessing:
    """Return the preprocessing: from the options, the file, or an assumption, which is added to `assumptions`."""
    usual = known.preprocessing

    def taken(subject: str, asked: T | None, said: T | None, usual: T | None) -> T | None:
        if asked is not None or said is not None:
            return said if asked is None else asked
        if usual is not None:
            value = ", ".join(f"{number:.6g}" for number in usual) if isinstance(usual, tuple) else str(usual)
            option = _OPTIONS.get(subject)
            assumptions.append(Assumption(subject=subject, value=value, reason=known.words, option=option))
        return usual

    resize: ResizePolicy | None = taken("resize", overrides.resize, said.resize, usual.resize)
    order: ChannelOrder | None = taken(
        "channel order", overrides.channel_order, said.channel_order, usual.channel_order
    )
    image, mean = said.mean_image, said.mean
    if overrides.mean is not None:
        image, mean = (overrides.mean, None) if isinstance(overrides.mean, MeanImage) else (None, overrides.mean)
    if image is None and overrides.mean_image == "channels":
        raise UsageError("--mean-image channels: there is no mean image; give one with --mean FILE")
    if image is not None and order is not None and not (mean := _equal_mean(image, order)):
        if overrides.mean_image == "channels":
            assumptions.append(_averaged(image, order))
            mean = image.channel_means(order)
        elif image.pixels.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
            height, width = image.pixels.shape[1:]
            raise UsageError(
                f"{image.name}: a mean image of {height} x {width} pixels, but it is subtracted from images of "
                f"{IMAGE_SIZE} x {IMAGE_SIZE}; --mean-image channels uses its three channel means"
            )
    return SourcePreprocessing(
        resize=resize,
        channel_order=order,
        mean=taken("mean", None, mean, usual.mean) if image is None else mean,
        mean_image=image if mean is None else None,
        scale=taken("scale", overrides.scale, said.scale, usual.scale),
        decode=overrides.decode or said.decode,
        input_size=said.input_size,
    )


def _equal_mean(image: MeanImage, order: ChannelOrder) -> RGB | None:
    """Return the three numbers that a mean image holds if all its pixels are equal."""
    return image.channel_means(order) if (image.pixels == image.pixels[:, :1, :1]).all() else None


def _averaged(image: MeanImage, order: ChannelOrder) -> Assumption:
    means = image.channel_means(order)
    apart = np.abs(image.in_rgb(order) - np.array(means, np.float32).reshape(3, 1, 1))
    return Assumption(
        subject="mean",
        value=", ".join(f"{mean:.6g}" for mean in means),
        reason=f"the channel means of {image.name}; its pixels differ by {apart.mean():.3g} on average, "
        f"{apart.max():.3g} at most",
        option="--mean-image exact",
    )


_OPTIONS = {
    "resize": "--resize",
    "channel order": "--channel-order",
    "mean": "--mean",
    "scale": "--scale",
}
