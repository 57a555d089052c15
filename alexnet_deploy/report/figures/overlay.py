"""Learning curves of several variants in one chart, and their differences to a base on one scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alexnet_deploy.report.charts import LinearScale
from alexnet_deploy.report.curves import polyline

OVERLAY_WIDTH, OVERLAY_HEIGHT = 620.0, 300.0

NUM_COLORS = 8
"""Colours of the page; further lines repeat them."""

_LABEL_HEIGHT = 15.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One variant: the same quantity over the same places, for each seed."""

    name: str
    places: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    """By seed, then by place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayLine:
    """The drawn form of a series."""

    name: str
    color: int
    """0 to NUM_COLORS - 1."""
    mean: str
    """SVG path of the mean over the seeds."""
    seeds: tuple[str, ...]
    """SVG paths, one for each seed; none with one seed."""
    end: Point
    """End of the mean's path."""
    label_y: float
    """Height of its name, so that names do not overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayChart:
    """Lines in a box of OVERLAY_WIDTH by OVERLAY_HEIGHT; coordinates start at its top left corner."""

    lines: tuple[OverlayLine, ...]
    places: tuple[tuple[str, float], ...]
    levels: tuple[tuple[str, float], ...]
    mark: float | None
    """y of the level to reach; None without one."""
    unit: str
    """What the x axis counts."""


def overlay_chart(series: Sequence[Series], *, suffix: str, mark: float | None) -> OverlayChart:
    """Return the chart of these series over training images; `suffix` follows the numbers of the y axis.

    `mark` is a level that is drawn across, if it is given.
    """
    most = max(place for each in series for place in each.places)
    drawn = [value for each in series for values in each.values for value in values if math.isfinite(value)]
    across = LinearScale(low=0.0, high=most)
    up = LinearScale(low=0.0, high=1.05 * max([*drawn, mark or 0.0]) or 1.0)

    def point(place: float, value: float) -> Point:
        x = round(OVERLAY_WIDTH * across.place(place) / 100, 1)
        return x, round(OVERLAY_HEIGHT * (1 - up.place(value) / 100), 1)

    def path(places: Sequence[float], values: Sequence[float]) -> str:
        return polyline([point(*pair) for pair in zip(places, values, strict=True)])

    lines = []
    for number, each in enumerate(series):
        mean = [math.fsum(values) / len(values) for values in zip(*each.values, strict=True)]
        lines.append(
            OverlayLine(
                name=each.name,
                color=number % NUM_COLORS,
                mean=path(each.places, mean),
                seeds=tuple(path(each.places, values) for values in each.values) if len(each.values) > 1 else (),
                end=point(each.places[-1], mean[-1]),
                label_y=0.0,
            )
        )
    is_thousands = most >= 10_000
    return OverlayChart(
        lines=_labelled(lines),
        places=tuple((f"{place / (1000 if is_thousands else 1):g}", point(place, 0)[0]) for place in across.ticks(6)),
        levels=tuple((f"{value:g}{suffix}", point(0, value)[1]) for value in up.ticks(6)),
        mark=None if mark is None else point(0, mark)[1],
        unit="thousand training images" if is_thousands else "training images",
    )


def _labelled(lines: Sequence[OverlayLine]) -> tuple[OverlayLine, ...]:
    """Return the lines with the heights of their names: near their ends, but apart from one another."""
    order = sorted(range(len(lines)), key=lambda number: lines[number].end[1])
    heights: dict[int, float] = {}
    lowest = -math.inf
    for number in order:
        lowest = heights[number] = max(lines[number].end[1], lowest + _LABEL_HEIGHT)
    # Moved up together where the last ones would be below the box.
    over = max(0.0, lowest - OVERLAY_HEIGHT)
    return tuple(replace(line, label_y=round(heights[number] - over, 1)) for number, line in enumerate(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One variant against the base."""

    name: str
    words: str
    """The number and its interval."""
    outcome: str
    """supported, contradicted, undecided, or empty."""
    value: float
    """Position, 0..100."""
    begin: float
    end: float
    is_open: bool
    """Whether there is no interval: only the value is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceChart:
    """Differences on one linear scale; positions are 0..100."""

    rows: tuple[Difference, ...]
    zero: float
    """Position of no difference."""
    ticks: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A comparison with the base, with its interval."""

    name: str
    words: str
    outcome: str
    value: float
    interval: tuple[float, float] | None


def difference_chart(compared: Sequence[Compared], *, none: float) -> DifferenceChart | None:
    """Return the chart of these comparisons; `none` is the value of no difference. None without a comparison."""
    if not compared:
        return None
    numbers = [none, *(each.value for each in compared), *(end for each in compared for end in each.interval or ())]
    low, high = min(numbers), max(numbers)
    margin = 0.06 * (high - low) or 1.0
    scale = LinearScale(low=low - margin, high=high + margin)
    return DifferenceChart(
        rows=tuple(
            Difference(
                name=each.name,
                words=each.words,
                outcome=each.outcome,
                value=scale.place(each.value),
                begin=scale.place((each.interval or (each.value,))[0]),
                end=scale.place((each.interval or (each.value,))[-1]),
                is_open=each.interval is None,
            )
            for each in compared
        ),
        zero=scale.place(none),
        ticks=tuple((f"{number:g}".replace("-", "\N{MINUS SIGN}"), scale.place(number)) for number in scale.ticks(6)),
    )
