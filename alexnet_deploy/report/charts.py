"""The report's charts as positions on their scales; the page draws them with its own boxes, lines and text.

Positions are per cent of a track from its left end, or coordinates in the box of a small SVG.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from alexnet_deploy.export.calibration import NUM_BINS, Histogram

_NUM_COLUMNS = 128
_LEAST_FAULT, _MOST_FAULT = 1e-3, 1e9
_LEAST_COST, _MOST_COST = 1e-9, 1e3
"""Divergences are clamped to these: smaller ones are float32 rounding, larger ones do not come from probabilities."""

_LEAST_SPAN = 1e-6
"""An interval narrower than this, in percentage points, is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogScale:
    """A logarithmic scale from 10 ** low to 10 ** high."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return the position of a positive value, 0..100, clamped to the ends of the scale."""
        return _place(math.log10(value), self.low, self.high)

    def ticks(self, most: int) -> list[float]:
        """Return up to about `most` powers of ten on the scale; if it has fewer than two, round numbers."""
        exponents = LinearScale(low=self.low, high=self.high).ticks(most, integer=True)
        if len(exponents) < 2:
            return LinearScale(low=10.0**self.low, high=10.0**self.high).ticks(most)
        return [10.0**exponent for exponent in exponents]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScale:
    """A linear scale."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return the position of a value, 0..100, clamped to the ends of the scale."""
        return _place(value, self.low, self.high)

    def ticks(self, most: int, *, integer: bool = False) -> list[float]:
        """Return up to about `most` round numbers on the scale, whole numbers with `integer`."""
        locator = MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=integer, min_n_ticks=1)
        found = (float(f"{number:.6g}") for number in locator.tick_values(self.low, self.high))
        return [number for number in found if self.low <= number <= self.high]


def _place(value: float, low: float, high: float) -> float:
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultChart:
    """The errors of the planted faults, in multiples of the tolerance."""

    scale: LogScale
    faults: tuple[tuple[str, float, float, float], ...]
    """Name, multiple of the tolerance, and start and length of the bar; largest multiple first."""

    ticks: tuple[int, ...]
    """The labelled powers of ten: the low end, the tolerance, ten times the tolerance, and some beyond."""


def fault_chart(separation: Mapping[str, float]) -> FaultChart:
    """Return the chart of each fault's multiple of the tolerance; each bar starts at 1."""
    # A fault without effect, or with NaN, is clamped to the end of the scale.
    shown = {
        name: _LEAST_FAULT if math.isnan(value) else min(max(value, _LEAST_FAULT), _MOST_FAULT)
        for name, value in separation.items()
    }
    exponents = [math.log10(value) for value in shown.values()]
    low, high = min(0, math.floor(min(exponents, default=0))), max(2, math.ceil(max(exponents, default=0)))
    scale = LogScale(low=low, high=high)
    step = 1 if high - low <= 5 else 2 if high - low <= 7 else 4
    one = scale.place(1.0)
    order = sorted(shown, key=lambda name: (-shown[name], name))
    places = {name: scale.place(shown[name]) for name in order}
    return FaultChart(
        scale=scale,
        ticks=tuple(sorted({low, 0, *range(1, high + 1, step)})),
        faults=tuple(
            (name, separation[name], min(one, places[name]), round(abs(places[name] - one), 2)) for name in order
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostChart:
    """Divergences in nats on a logarithmic scale."""

    scale: LogScale
    ticks: range
    """The labelled powers of ten, including both ends."""
    lengths: dict[str, float]
    """Length of each bar, 0..100; 0 for a cost of 0, the whole track for a cost that is not finite."""


def cost_chart(costs: Mapping[str, float]) -> CostChart:
    """Return the bars of these costs; a cost that is not finite gets the longest bar."""
    finite = [min(max(cost, _LEAST_COST), _MOST_COST) for cost in costs.values() if 0 < cost < math.inf]
    # Even the smallest cost has a visible bar.
    low = math.floor(math.log10(min(finite)) - 0.2) if finite else -4
    num_decades = max(2, math.ceil(math.log10(max(finite))) - low) if finite else 2
    step = math.ceil(num_decades / 5)
    high = low + step * math.ceil(num_decades / step)
    scale = LogScale(low=low, high=high)
    return CostChart(
        scale=scale,
        ticks=range(low, high + 1, step),
        lengths={
            name: (scale.place(cost) if cost > 0 else 0.0) if math.isfinite(cost) else 100.0
            for name, cost in costs.items()
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalChart:
    """A confidence interval on a linear scale, with marks at zero and at the limit; positions are 0..100."""

    begin: float
    end: float
    value: float
    zero: float
    allowed: float
    ticks: tuple[tuple[float, float], ...]
    """Number and position."""


def interval_chart(value: float, interval: tuple[float, float], allowed: float) -> IntervalChart | None:
    """Return the chart of a value with its interval; None if one of the numbers is not finite."""
    numbers = (value, *interval, allowed)
    if not all(map(math.isfinite, numbers)):
        return None
    low, high = min(0.0, *numbers), max(0.0, *numbers)
    margin = 0.06 * (high - low) if high - low > _LEAST_SPAN else 1.0
    scale = LinearScale(low=low - margin, high=high + margin)
    return IntervalChart(
        begin=scale.place(min(interval)),
        end=scale.place(max(interval)),
        value=scale.place(value),
        zero=scale.place(0.0),
        allowed=scale.place(allowed),
        ticks=tuple((number, scale.place(number)) for number in scale.ticks(7)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramChart:
    """Magnitudes of one layer's input: outlines of logarithmic counts in a box of BOX_WIDTH by BOX_HEIGHT."""

    kept: str
    """SVG path of the part within the range, or of everything if there is no range."""
    cut: str
    """SVG path of the part beyond the range; empty if nothing is drawn there."""
    edge: float | None
    """Position of the range's end; None if the layer has no range."""
    upper: float
    """The magnitude at the box's right end."""
    levels: tuple[tuple[int, float], ...]
    """The labelled powers of ten of the counts, and their distances from the top."""


BOX_WIDTH, BOX_HEIGHT = 224.0, 100.0
_BELOW_ONE = 0.35
"""Decades below a count of one, so that a single value is visible."""


def histogram_charts(
    histograms: Mapping[str, Histogram], ranges: Mapping[str, float]
) -> dict[str, HistogramChart | None]:
    """Return the chart of each layer, all on one scale of counts; None if every value was 0."""
    columns = {
        layer: _columns(histogram, ranges.get(layer))
        for layer, histogram in histograms.items()
        if histogram.largest > 0.0
    }
    most = max((int(counts.max()) for counts, _ in columns.values()), default=1)
    num_decades = max(1.0, math.log10(max(1, most)))
    step = math.ceil(num_decades / 4)
    levels = tuple((exponent, _height(10**exponent, num_decades)) for exponent in range(0, int(num_decades) + 1, step))
    return {
        layer: _histogram_chart(*columns[layer], ranges.get(layer), num_decades, levels) if layer in columns else None
        for layer in histograms
    }


def _columns(histogram: Histogram, amax: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (C,) and edges (C + 1,) of equal columns, _NUM_COLUMNS or a few more, to the range or maximum."""
    upper = max(histogram.largest, amax or 0.0)
    width = histogram.upper / NUM_BINS
    num_bins = int(np.flatnonzero(histogram.counts)[-1]) + 1
    group = math.ceil(min(NUM_BINS, max(num_bins, upper / width)) / _NUM_COLUMNS)
    num_columns = math.ceil(num_bins / group)
    padded = np.zeros(num_columns * group, dtype=np.int64)
    padded[:num_bins] = histogram.counts[:num_bins]
    counts = padded.reshape(num_columns, group).sum(axis=1)
    # Rounding may create columns beyond the largest value: their counts belong to the last column.
    edges = np.minimum(np.arange(num_columns + 1) * group * width, upper)
    while num_columns > 1 and edges[-2] >= upper:
        counts, edges, num_columns = np.append(counts[:-2], counts[-2:].sum()), edges[:-1], num_columns - 1
    return np.append(counts, 0), np.append(edges, upper)


def _histogram_chart(
    counts: np.ndarray,
    edges: np.ndarray,
    amax: float | None,
    num_decades: float,
    levels: tuple[tuple[int, float], ...],
) -> HistogramChart:
    upper = float(edges[-1])
    places = [BOX_WIDTH * float(edge) / upper for edge in edges]
    heights = [_height(int(count), num_decades) for count in counts]
    edge = None if amax is None else BOX_WIDTH * min(1.0, amax / upper)
    return HistogramChart(
        kept=_outline(places, heights, 0.0, BOX_WIDTH if edge is None else edge),
        cut="" if edge is None else _outline(places, heights, edge, BOX_WIDTH),
        edge=None if edge is None else round(edge, 1),
        upper=upper,
        levels=levels,
    )


def _height(count: int, num_decades: float) -> float:
    """Return the distance of a count's bar from the top of the box."""
    share = (math.log10(count) + _BELOW_ONE) / (num_decades + _BELOW_ONE) if count else 0.0
    return round(BOX_HEIGHT * (1 - share), 1)


def _outline(places: Sequence[float], heights: Sequence[float], begin: float, end: float) -> str:
    """Return the outline between `begin` and `end` as a closed path on the box's floor; empty without counts."""
    path, reached = "", BOX_HEIGHT
    for left, right, height in zip(places, places[1:], heights, strict=False):
        # Rounded to the written precision: narrower steps are invisible.
        left, right = round(max(left, begin), 1), round(min(right, end), 1)
        if left >= right:
            continue
        if height != reached:
            path += f"H{left:.1f}V{height:g}" if path else f"M{left:.1f} {BOX_HEIGHT:g}V{height:g}"
            reached = height
    return f"{path}H{end:.1f}V{BOX_HEIGHT:g}Z" if path else ""
