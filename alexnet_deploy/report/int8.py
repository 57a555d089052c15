"""The int8 sections of the report: accuracy cost, sensitivity of each layer, and calibration."""

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
    "percentile": "the 99.99th percentile of the magnitudes",
    "entropy": "the lowest Kullback-Leibler divergence of the distribution",
    "mse": "the lowest mean squared error",
}
"""The criterion of each calibration method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Layer:
    """One convolution or fully connected layer, and its number type."""

    name: str
    layer: Layer | None
    """None if the table has no layer of that name."""
    fate: Literal["int8", "back", "kept"]
    """`back`: moved back to float by the gate. `kept`: kept in float on request."""
    amax: float | None
    """The input magnitude that maps to 127; None in float."""
    cost: float | None
    """Divergence when only this layer is in int8, in nats; None if not measured."""
    largest: float | None
    """The largest input magnitude seen; None without a histogram."""
    share_beyond: float | None
    """Share of the input values beyond the range; None without a range or a histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """The images whose top-1 prediction differs between the two networks."""

    shown: tuple[Flip, ...]
    """First those that only the trained network classifies correctly, then those that only this graph does."""
    num_left_out: int
    num_lost: int
    """Only the trained network is correct."""
    num_won: int
    """Only this graph is correct."""
    num_neither: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Part:
    """The contents of the int8 sections."""

    quantization: Quantization
    gate: Gate | None
    method: str
    layers: tuple[Int8Layer, ...]
    """In the order of the table."""
    costs: tuple[Int8Layer, ...]
    """Highest cost first, unmeasured layers last."""
    cost_chart: CostChart
    interval: IntervalChart | None
    flips: Flips | None
    histograms: dict[str, HistogramChart | None]
    """By layer, in the order of the table."""

    @property
    def accuracy(self) -> Accuracy | None:
        """Accuracy of both networks on labelled images; None if not measured."""
        return None if self.gate is None else self.gate.accuracy

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """The layers that were moved back to float, in that order."""
        return () if self.gate is None else self.gate.fallbacks


def int8_part(manifest: Manifest, histograms: Mapping[str, Histogram]) -> Int8Part | None:
    """Return the contents of the int8 sections; None for other precisions."""
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
        amax, histogram = quantization.ranges.get(name), histograms.get(name)
        found.append(
            Int8Layer(
                name=name,
                layer=table.get(name),
                fate="int8" if amax is not None else "back" if name in went_back else "kept",
                amax=amax,
                cost=None if gate is None else gate.sensitivity.get(name),
                largest=None if histogram is None else histogram.largest,
                share_beyond=None if histogram is None or amax is None else histogram.share_beyond(amax),
            )
        )
    return tuple(found)


def _worst_first(layer: Int8Layer) -> tuple[bool, float]:
    # NaN sorts as the highest cost.
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
