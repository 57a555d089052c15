"""Training curves as coordinates in the box of a small SVG, which the page draws in its own colours and font."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise

from alexnet_deploy.core.model.weights import EpochMetrics, TrainingRecord
from alexnet_deploy.report.charts import LinearScale, LogScale
from alexnet_deploy.report.wording import short

CURVE_WIDTH, CURVE_HEIGHT = 212.0, 150.0

_STEP = 3.0
"""A learning rate that falls by at least this factor from one epoch to the next was stepped down."""
_MOST_LEVELS = 5
_MOST_DOTS = 12
"""Largest number of epochs with a dot for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One quantity over the epochs."""

    path: str
    """SVG path, with gaps where the quantity is NaN or infinite."""
    dots: tuple[tuple[float, float], ...]
    """A dot for each epoch, if there are few."""
    is_main: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveChart:
    """Lines in a box of CURVE_WIDTH by CURVE_HEIGHT; coordinates start at its top left corner."""

    lines: tuple[Line, ...]
    """The main line last, so that it is drawn on top."""
    best: float | None
    """x of the best epoch; None if it is not one of the epochs."""
    mark: tuple[float, float] | None
    """The main line at the best epoch; None if it is NaN or infinite there."""
    places: tuple[tuple[str, float], ...]
    """Labels of the x axis, each with its x."""
    levels: tuple[tuple[str, float], ...]
    """Labels of the y axis, each with its y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurves:
    """The three charts of a training."""

    loss: CurveChart
    error: CurveChart
    """Of validation, in per cent."""
    rate: CurveChart


def training_curves(training: TrainingRecord, num_classes: int) -> TrainingCurves:
    """Return loss, validation error and learning rate over epochs, one epoch or more."""
    epochs = training.epochs
    losses = [[e.train_loss for e in epochs], [e.validation_loss for e in epochs]]
    errors = [[100 * (1 - e.validation_top1) for e in epochs]]
    if num_classes > 5:
        errors.insert(0, [100 * (1 - e.validation_top5) for e in epochs])
    rates = [e.learning_rate for e in epochs]
    # Steps get a logarithmic scale with a tick at each level; a gradual decay, which may end near 0, a linear one.
    falls = [before / after for before, after in pairwise(rates) if before != after > 0]
    is_divided = max(falls, default=1.0) >= _STEP and 2 * len(falls) < len(rates)
    rate_scale = _scale(rates, log_from=_STEP if is_divided else math.inf)
    steps = sorted(set(filter(_is_drawn, rates)))
    return TrainingCurves(
        loss=_chart(training, losses, _scale([*losses[0], *losses[1]], log_from=30)),
        error=_chart(training, errors, LinearScale(low=0.0, high=max(1.0, _top([*chain(*errors)]))), unit=" %"),
        rate=_chart(
            training,
            [rates],
            rate_scale,
            is_stepped=True,
            named=steps if isinstance(rate_scale, LogScale) and len(steps) <= _MOST_LEVELS else None,
        ),
    )


def _top(values: Sequence[float]) -> float:
    return 1.06 * max(filter(_is_drawn, values), default=1.0) or 1.0


def _scale(values: Sequence[float], *, log_from: float) -> LinearScale | LogScale:
    """Return a logarithmic scale if the values span a factor of `log_from`, otherwise a linear scale from zero."""
    drawn = list(filter(_is_drawn, values)) or [1.0]
    low, high = min(drawn), max(drawn)
    if low > 0 and log_from * low <= high:
        return LogScale(low=math.log10(low / 1.6), high=math.log10(high * 1.6))
    return LinearScale(low=min(0.0, low), high=_top(values))


def _chart(
    training: TrainingRecord,
    lines: Sequence[Sequence[float]],
    scale: LinearScale | LogScale,
    *,
    unit: str = "",
    is_stepped: bool = False,
    named: Sequence[float] | None = None,
) -> CurveChart:
    """Return the chart of these lines, each with one value per epoch, the main line last."""
    epochs = training.epochs
    across = LinearScale(low=epochs[0].epoch - 0.5, high=epochs[-1].epoch + 0.5)

    def x(epoch: float) -> float:
        return round(CURVE_WIDTH * across.place(epoch) / 100, 1)

    def y(value: float) -> float:
        return round(CURVE_HEIGHT * (1 - scale.place(value) / 100), 1)

    def line(values: Sequence[float], *, is_main: bool) -> Line:
        pieces = _pieces(epochs, values)
        if is_stepped:
            path = "".join(_stairs([(x(e - 0.5), y(value), x(e + 0.5)) for e, value in piece]) for piece in pieces)
            return Line(path=path, dots=(), is_main=is_main)
        points = [[(x(e), y(value)) for e, value in piece] for piece in pieces]
        return Line(
            path="".join(map(polyline, points)),
            dots=() if len(epochs) > _MOST_DOTS else tuple(chain(*points)),
            is_main=is_main,
        )

    at_best = [value for epoch, value in zip(epochs, lines[-1], strict=True) if epoch.epoch == training.best_epoch]
    best = x(training.best_epoch) if at_best else None
    return CurveChart(
        lines=tuple(line(values, is_main=values is lines[-1]) for values in lines),
        best=best,
        mark=(best, y(at_best[0])) if best is not None and _is_drawn(at_best[0]) else None,
        places=tuple((f"{epoch:g}", x(epoch)) for epoch in across.ticks(6, integer=True)),
        levels=tuple((f"{short(value)}{unit}", y(value)) for value in named or scale.ticks(5)),
    )


def _is_drawn(value: float) -> bool:
    # Above it the ends of the scale would overflow float64.
    return abs(value) < 1e300


def _pieces(epochs: Sequence[EpochMetrics], values: Sequence[float]) -> list[list[tuple[int, float]]]:
    """Return the runs of epochs whose values can be drawn."""
    pairs = [(epoch.epoch, value) for epoch, value in zip(epochs, values, strict=True)]
    return [list(piece) for is_drawn, piece in groupby(pairs, lambda pair: _is_drawn(pair[1])) if is_drawn]


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Return an SVG path through the points."""
    return f"M{'L'.join(f'{x:g} {y:g}' for x, y in points)}"


def _stairs(steps: Sequence[tuple[float, float, float]]) -> str:
    """Return a path of level steps, each given as left end, height and right end."""
    return f"M{steps[0][0]:g} {steps[0][1]:g}" + "".join(f"V{y:g}H{right:g}" for _, y, right in steps)
