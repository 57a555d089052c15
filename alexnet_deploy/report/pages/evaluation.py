"""The page of an evaluation: one self-contained HTML file about bundles on labelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexnet_deploy.core.confidence.reliability import CoveragePoint, Reliability
from alexnet_deploy.core.process.say import counted, printable
from alexnet_deploy.report.figures.coverage import coverage_chart
from alexnet_deploy.report.figures.reliability import reliability_chart
from alexnet_deploy.report.page import Thumbnail, Verdict, render_page
from alexnet_deploy.report.training import confusion_of
from alexnet_deploy.report.wording import interval, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """One bundle on one engine, as the page shows it."""

    bundle: str
    precision: str
    engine: str
    """Backend and version."""
    arithmetic: str
    top1: float | None
    """None, like the other measurements, if the engine failed."""
    top1_interval: tuple[float, float]
    difference_points: float
    difference_interval: tuple[float, float]
    top5: float
    ece: float
    p50_ms: float
    p99_ms: float | None
    images_per_second: float
    size_bytes: int
    reason: str
    """Why it failed, or what was retried; empty if nothing went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The first engine that ran, in detail."""

    labels: tuple[str, ...]
    confusion: Sequence[Sequence[int]]
    """Number of images for each true class and each top-1 prediction."""
    reliability: Reliability
    curve: tuple[CoveragePoint, ...]
    """Accuracy against coverage, a point for each different confidence."""
    at_thresholds: tuple[CoveragePoint, ...]
    errors: tuple[Thumbnail, ...]
    """The highest-confidence errors, at most NUM_ERRORS."""
    num_errors: int


def render_evaluation(
    *,
    data: str,
    num_images: int,
    processor: str,
    rows: Sequence[ShownRow],
    details: Details | None,
    tools: Mapping[str, str],
) -> bytes:
    """Return one self-contained HTML page, UTF-8; `details` is None if no engine ran.

    The page makes no request and contains no script, every name in it is escaped, and the same input gives the same
    bytes.
    """
    return render_page(
        "report_evaluation.html.jinja",
        data=data,
        num_images=num_images,
        processor=processor,
        rows=rows,
        verdict=_verdict(rows),
        details=details,
        has_top5=details is not None and len(details.labels) > 5,
        reliability=None if details is None else reliability_chart("Reliability", details.reliability),
        coverage=None if details is None else coverage_chart(details.curve),
        confusion=None if details is None else confusion_of(details.confusion, details.labels),
        labels=() if details is None else details.labels,
        tools=tools,
    )


def _verdict(rows: Sequence[ShownRow]) -> Verdict:
    ran = [row for row in rows if row.top1 is not None]
    if not ran:
        return Verdict(words="No engine ran.", holds=False)
    first, others = ran[0], ran[1:]
    assert first.top1 is not None
    words = (
        f"{printable(first.bundle)} on {first.engine}: top-1 {percent(first.top1)} (95 % interval "
        f"{interval(*first.top1_interval)})."
    )
    worse = [row for row in others if row.difference_interval[1] < 0]
    better = [row for row in others if row.difference_interval[0] > 0]
    if others:
        counts = [
            (len(others) - len(worse) - len(better), "without a significant difference"),
            (len(worse), "lower"),
            (len(better), "higher"),
        ]
        parts = ", ".join(f"{number} {what}" for number, what in counts if number)
        words += f" Other rows: {parts}."
    if failed := len(rows) - len(ran):
        words += f" {counted(failed, 'row')} failed."
    return Verdict(words=words, holds=False if failed else None if worse else True)
