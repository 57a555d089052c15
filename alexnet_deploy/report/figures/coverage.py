"""Accuracy against coverage as a curve."""

from alexnet_deploy.core.confidence.reliability import CoveragePoint
from alexnet_deploy.report.charts import LinearScale
from alexnet_deploy.report.curves import CURVE_HEIGHT, CURVE_WIDTH, CurveChart, Line, polyline

_MOST_POINTS = 200
"""Points that are drawn: more are closer than a pixel."""


def coverage_chart(curve: tuple[CoveragePoint, ...]) -> CurveChart:
    """Return the accuracy of the accepted images over the share of images that are accepted."""
    drawn = curve[:: max(1, len(curve) // _MOST_POINTS)]
    across = LinearScale(low=0.0, high=1.0)
    up = LinearScale(low=min(0.5, min(point.accuracy for point in drawn)), high=1.0)

    def x(share: float) -> float:
        return round(CURVE_WIDTH * across.place(share) / 100, 1)

    def y(share: float) -> float:
        return round(CURVE_HEIGHT * (1 - up.place(share) / 100), 1)

    path = polyline([(x(point.coverage), y(point.accuracy)) for point in drawn])
    return CurveChart(
        lines=(Line(path=path, dots=(), is_main=True),),
        best=None,
        mark=None,
        places=tuple((f"{100 * share:g} %", x(share)) for share in across.ticks(4)),
        levels=tuple((f"{100 * share:g} %", y(share)) for share in up.ticks(5)),
    )
