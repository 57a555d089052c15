"""Reliability diagrams as coordinates in the box of a small SVG, which the page draws in its own colours and font."""

import math
from dataclasses import dataclass

from alexnet_deploy.core.bundle.accuracy import share_interval
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.confidence.chance import chance_error
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.confidence.reliability import Reliability

RELIABILITY_SIZE = 190.0
"""Width and height of the box: 0 to 100 % of confidence across, and of accuracy upwards."""

_LARGEST_DOT, _SMALLEST_DOT = 6.5, 1.6
_TICKS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityDot:
    """One interval of confidence that has images; coordinates start at the box's top left corner."""

    x: float
    """Mean confidence."""
    y: float
    """Accuracy."""
    radius: float
    """The area is proportional to the number of images, but for the smallest ones."""
    low: float
    """y of the lower end of the accuracy's 95 % interval."""
    high: float
    """y of its upper end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityChart:
    """Accuracy over confidence; a network whose confidence equals its accuracy is on the diagonal."""

    name: str
    size: float
    dots: tuple[ReliabilityDot, ...]
    ticks: tuple[tuple[str, float], ...]
    """Labels of the axis of confidence, each with its x; accuracy has the same, from below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidencePart:
    """The contents of the section about confidence."""

    record: Confidence
    charts: tuple[ReliabilityChart, ReliabilityChart]
    """Without and with the temperature."""
    chance_error: float
    """Calibration error after it that chance alone gives, 0..1."""


def confidence_part(manifest: Manifest) -> ConfidencePart | None:
    """Return the contents of the section about confidence; None if it was not calibrated."""
    record = manifest.confidence
    if not isinstance(record, Confidence):
        return None
    charts = (reliability_chart("Before", record.before), reliability_chart("After", record.after))
    return ConfidencePart(record=record, charts=charts, chance_error=chance_error(record.after))


def reliability_chart(name: str, found: Reliability) -> ReliabilityChart:
    """Return the diagram of a reliability, one dot for each interval that has images."""
    most = max(each.num_images for each in found.bins)
    dots = []
    for each in found.bins:
        if each.mean_confidence is None or each.accuracy is None:
            continue
        low, high = share_interval(round(each.accuracy * each.num_images), each.num_images)
        dots.append(
            ReliabilityDot(
                x=_across(each.mean_confidence),
                y=_upwards(each.accuracy),
                radius=round(max(_SMALLEST_DOT, _LARGEST_DOT * math.sqrt(each.num_images / most)), 1),
                low=_upwards(low),
                high=_upwards(high),
            )
        )
    ticks = tuple((f"{tick} %", _across(tick / 100)) for tick in _TICKS)
    return ReliabilityChart(name=name, size=RELIABILITY_SIZE, dots=tuple(dots), ticks=ticks)


def _across(share: float) -> float:
    return round(RELIABILITY_SIZE * share, 1)


def _upwards(share: float) -> float:
    return round(RELIABILITY_SIZE * (1 - share), 1)
