"""What a file does not say, filled in: from what was asked for, or else from what is known of its source.

Each thing that is filled in from what is known becomes an Assumption, to be printed and recorded.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.preprocessing import RGB, ChannelOrder, ResizePolicy
from alexnet_deploy.export.importing.known import KNOWN, KnownSource
from alexnet_deploy.export.importing.match import match_layers
from alexnet_deploy.export.importing.source import (
    Assumption,
    Normalise,
    Scale,
    Source,
    SourceLayer,
    SourcePreprocessing,
    Unroll,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LrnConstants:
    """Constants of local response normalisation, alpha divided by `size` as torch, ONNX and Caffe have it."""

    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What was asked for in the place of what the file says, or what is known; None where nothing was."""

    architecture: str | None = None
    """A member of the family, or the name of a table of its own."""
    table: Architecture | None = None
    """The table that the source must be, but for the number of classes."""
    channel_order: ChannelOrder | None = None
    mean: RGB | None = None
    """Red, green, blue, on 0..255."""
    scale: RGB | None = None
    """Red, green, blue: what (pixel - mean) is multiplied by."""
    resize: ResizePolicy | None = None
    lrn: LrnConstants | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A source with its layers."""

    source: Source
    """Its layers are not None."""
    known: KnownSource | None
    """What else is known of such files; None where nothing is."""
    assumptions: tuple[Assumption, ...]
    """What was filled in from what is known."""


def complete(source: Source, overrides: Overrides) -> Completed:
    """Fill in the layers and labels that a source does not say.

    Raises WeightsError where nothing is known of its tensors, UsageError for an override that contradicts the file.
    """
    assumptions = [found for found in source.assumptions if overrides.mean is None or found.option != _OPTIONS["mean"]]
    if source.layers is None:
        asked = overrides.architecture if overrides.architecture in ARCHITECTURES else None
        matched = match_layers(source, asked, overrides.table)
        known, layers = matched.known, matched.layers
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
    )


def _about_layers(layers: tuple[SourceLayer, ...], known: KnownSource | None, overrides: Overrides) -> list[Assumption]:
    found = []
    scale = next((layer for layer in layers if isinstance(layer, Scale)), None)
    if scale is not None:
        value = f"directly after the layer before it by name ({scale.name}, ...), epsilon {scale.epsilon:g}"
        reason = "a state dict does not say where its batch norms are, nor their epsilon"
        found.append(Assumption(subject="batch norm", value=value, reason=reason, option=None))
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
    """Return what the network is fed: as asked for, as the file says, or as is known, which is noted."""
    usual = known.preprocessing

    def taken(subject: str, asked: T | None, said: T | None, usual: T | None) -> T | None:
        if asked is not None or said is not None:
            return said if asked is None else asked
        if usual is not None:
            value = ", ".join(f"{number:.6g}" for number in usual) if isinstance(usual, tuple) else str(usual)
            option = _OPTIONS.get(subject)
            assumptions.append(Assumption(subject=subject, value=value, reason=known.words, option=option))
        return usual

    has_mean_image = said.mean_image is not None and overrides.mean is None
    return SourcePreprocessing(
        resize=taken("resize", overrides.resize, said.resize, usual.resize),
        channel_order=taken("channel order", overrides.channel_order, said.channel_order, usual.channel_order),
        mean=None if has_mean_image else taken("mean", overrides.mean, said.mean, usual.mean),
        mean_image=said.mean_image if has_mean_image else None,
        scale=taken("scale", overrides.scale, said.scale, usual.scale),
        input_size=said.input_size,
    )


_OPTIONS = {
    "resize": "--resize",
    "channel order": "--channel-order",
    "mean": "--mean",
    "scale": "--scale",
}
