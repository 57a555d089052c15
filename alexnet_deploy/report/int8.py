"""What the report says of an int8 graph: what it costs, which layers cost it, and where its ranges come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from alexnet_deploy.core.bundle.accuracy import Accuracy, Fallback, Flip, Gate
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.model.architecture import Architecture, Conv, Layer, Linear
from alexnet_deploy.export.calibration import Histogram
from alexnet_deploy.report.charts import (
    CostChart,
    HistogramChart,
    IntervalChart,
    cost_chart,
    histogram_charts,
    interval_chart,
)

_MOST_FLIPS = 50

METHODS = {
    "minmax": "the largest magnitude seen",
    "percentile": "what 99.99 % of the magnitudes stay under",
    "entropy": "the least Kullback-Leibler divergence of the distribution",
    "mse": "the least squared error",
}
"""What each way of choosing a range looks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Layer:
    """One convolution or fully connected layer, and how it counts."""

    name: str
    layer: Layer | None
    """None where the table has no layer of that name."""
    fate: Literal["int8", "back", "kept"]
    """`back`: it went back to float for the gate. `kept`: it was never to be in int8."""
    range: float | None
    """The magnitude that becomes 127; None in float."""
    cost: float | None
    """Divergence when it alone is in int8, in nats; None where that was not measured."""
    largest: float | None
    """The largest magnitude seen; None where nothing was counted."""
    share_beyond: float | None
    """Share of the numbers beyond the range; None where there is no range or nothing was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """The images whose first guess changed."""

    shown: tuple[Flip, ...]
    """Those that were right before come first, then those that are right now."""
    num_left_out: int
    num_lost: int
    """Right before, wrong now."""
    num_won: int
    num_neither: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Part:
    """Everything of the int8 sections."""

    quantization: Quantization
    gate: Gate | None
    method: str
    layers: tuple[Int8Layer, ...]
    """In the order of the table."""
    costs: tuple[Int8Layer, ...]
    """The costliest first, those that were not measured last."""
    cost_chart: CostChart
    interval: IntervalChart | None
    flips: Flips | None
    histograms: dict[str, HistogramChart | None]
    """By layer, in the order of the table."""

    @property
    def accuracy(self) -> Accuracy | None:
        """Both networks on labelled images; None where that was not measured."""
        return None if self.gate is None else self.gate.accuracy

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """The layers that went back to float, the first that did first."""
        return () if self.gate is None else self.gate.fallbacks


def int8_part(manifest: Manifest, histograms: Mapping[str, Histogram]) -> Int8Part | None:
    """Return what there is to say of an int8 graph; None for the other precisions."""
    quantization, gate = manifest.quantization, manifest.gate
    if quantization is None:
        return None
    layers = _layers(manifest.architecture, quantization, gate, histograms)
    accuracy = None if gate is None else gate.accuracy
    drawn = {layer.name: histograms[layer.name] for layer in layers if layer.name in histograms}
    return Int8Part(
        quantization=quantization,
        gate=gate,
        method=METHODS[quantization.calibration.method],
        layers=layers,
        costs=tuple(sorted(layers, key=_worst_first)),
        cost_chart=cost_chart({layer.name: layer.cost for layer in layers if layer.cost is not None}),
        interval=None
        if accuracy is None
        else interval_chart(accuracy.drop_points, accuracy.interval_points, accuracy.max_drop_points),
        flips=None if accuracy is None else _flips(accuracy.flips),
        histograms=histogram_charts(drawn, quantization.ranges),
    )


def _layers(
    architecture: Architecture, quantization: Quantization, gate: Gate | None, histograms: Mapping[str, Histogram]
) -> tuple[Int8Layer, ...]:
    table: dict[str, Layer] = {
        cost.layer.name: cost.layer for cost in architecture.costs() if isinstance(cost.layer, Conv | Linear)
    }
    went_back = set() if gate is None else {fallback.layer for fallback in gate.fallbacks}
    found = []
    for name in dict.fromkeys([*table, *quantization.ranges]):
        largest_kept, histogram = quantization.ranges.get(name), histograms.get(name)
        found.append(
            Int8Layer(
                name=name,
                layer=table.get(name),
                fate="int8" if largest_kept is not None else "back" if name in went_back else "kept",
                range=largest_kept,
                cost=None if gate is None else gate.sensitivity.get(name),
                largest=None if histogram is None else histogram.largest,
                share_beyond=None
                if histogram is None or largest_kept is None
                else histogram.share_beyond(largest_kept),
            )
        )
    return tuple(found)


def _worst_first(layer: Int8Layer) -> tuple[bool, float]:
    # What is no number is worse than any.
    cost = layer.cost
    return cost is None, 0.0 if cost is None else -math.inf if math.isnan(cost) else -cost


def _flips(flips: tuple[Flip, ...]) -> Flips:
    lost = [flip for flip in flips if flip.reference == flip.truth]
    won = [flip for flip in flips if flip.candidate == flip.truth]
    neither = [flip for flip in flips if flip.truth not in (flip.reference, flip.candidate)]
    ordered = [*lost, *won, *neither]
    return Flips(
        shown=tuple(ordered[:_MOST_FLIPS]),
        num_left_out=max(0, len(ordered) - _MOST_FLIPS),
        num_lost=len(lost),
        num_won=len(won),
        num_neither=len(neither),
    )
