"""Charts of confidence, as coordinates in the box of a small SVG."""

from alexnet_deploy.core.confidence.reliability import CoveragePoint, Reliability
from alexnet_deploy.report.charts import LinearScale
from alexnet_deploy.report.curves import CURVE_HEIGHT, CURVE_WIDTH, CurveChart, Line, polyline

_MOST_POINTS = 200
"""Points of the coverage curve that are drawn: more are closer than a pixel."""

_FEWEST_IMAGES = 10
"""A bin with fewer images has no dot: its accuracy says little."""


def reliability_chart(found: Reliability) -> CurveChart:
    """Return the accuracy of each bin over its mean confidence; perfect calibration is the diagonal."""
    scale = LinearScale(low=0.0, high=1.0)
    points = [
        (_x(scale, each.mean_confidence), _y(scale, each.accuracy))
        for each in found.bins
        if each.mean_confidence is not None and each.accuracy is not None and each.num_images >= _FEWEST_IMAGES
    ]
    diagonal = Line(path=polyline([(0.0, CURVE_HEIGHT), (CURVE_WIDTH, 0.0)]), dots=(), is_main=False)
    main = Line(path=polyline(points) if points else "", dots=tuple(points), is_main=True)
    return _chart((diagonal, main), scale, scale)


def coverage_chart(curve: tuple[CoveragePoint, ...]) -> CurveChart:
    """Return the accuracy of the accepted images over the share of images that are accepted."""
    step = max(1, len(curve) // _MOST_POINTS)
    drawn = [*curve[::step]]
    low = min(point.accuracy for point in drawn)
    across, up = LinearScale(low=0.0, high=1.0), LinearScale(low=min(0.5, low), high=1.0)
    points = [(_x(across, point.coverage), _y(up, point.accuracy)) for point in drawn]
    return _chart((Line(path=polyline(points), dots=(), is_main=True),), across, up)


def _x(scale: LinearScale, value: float) -> float:
    return round(CURVE_WIDTH * scale.place(value) / 100, 1)


def _y(scale: LinearScale, value: float) -> float:
    return round(CURVE_HEIGHT * (1 - scale.place(value) / 100), 1)


def _chart(lines: tuple[Line, ...], across: LinearScale, up: LinearScale) -> CurveChart:
    return CurveChart(
        lines=lines,
        best=None,
        mark=None,
        places=tuple((f"{100 * value:g} %", _x(across, value)) for value in across.ticks(4)),
        levels=tuple((f"{100 * value:g} %", _y(up, value)) for value in up.ticks(5)),
    )
