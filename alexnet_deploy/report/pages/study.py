"""The page of a study: one self-contained HTML file about a claim and the runs that test it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexnet_deploy.report.figures.overlay import (
    OVERLAY_HEIGHT,
    OVERLAY_WIDTH,
    Compared,
    OverlayChart,
    Series,
    difference_chart,
    overlay_chart,
)
from alexnet_deploy.report.page import Thumbnail, Verdict, render_page
from alexnet_deploy.report.training import Confusion, confusion_of
from alexnet_deploy.report.wording import points


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over the seeds with its interval."""

    mean: float
    interval: tuple[float, float] | None
    """None with one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownVariant:
    """One variant, as the page shows it; the base is the first."""

    label: str
    num_parameters: int
    searched: float | None
    center: Spread
    """Top-1 in per cent, as in `ten`."""
    ten: Spread
    value: Spread | None
    """The compared quantity: top-1 in per cent, or epochs."""
    is_at_least: bool
    """Whether a run did not reach the target, so that the true value is larger."""
    comparison: Spread | None
    """Difference in points, or ratio; None for the base."""
    outcome: str
    """supported, contradicted, undecided, or empty."""
    claimed: str
    """The claimed side of the bound, for example `below 0`; empty without a claim."""
    sentence: str
    epochs_to_error: Spread | None
    images_to_error: Spread | None
    seconds_to_error: Spread | None
    seconds: Spread | None
    """Of one run; None where the weights are those of the base."""
    remark: str
    curve: Series | None
    """The charted quantity over training images; None where the weights are those of the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """One run in detail."""

    title: str
    confusion: Sequence[Sequence[int]]
    errors: tuple[Thumbnail, ...]
    num_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPage:
    """Everything that the page shows."""

    name: str
    claim: str
    source: str
    figure: str
    sentence: str
    holds: bool | None
    is_epochs: bool
    """Whether epochs to a target are compared, as ratios, not accuracies."""
    target: str
    views: str
    architecture: str
    recipe: str
    searched: str
    """The field that was searched; empty without a search."""
    num_train: int
    num_tested: int
    is_held_out: bool
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    shrunk: tuple[str, ...]
    error: float
    """The error, in per cent, that the columns on time count to."""
    quantity: str
    """What the curves show, in words."""
    suffix: str
    mark: float | None
    variants: tuple[ShownVariant, ...]
    details: tuple[ShownRun, ...]
    tools: Mapping[str, str]


def render_study(page: StudyPage) -> bytes:
    """Return one self-contained HTML page, UTF-8.

    The page makes no request and contains no script, every name in it is escaped, and the same input gives the same
    bytes.
    """
    return render_page(
        "report_study.html.jinja",
        page=page,
        verdict=Verdict(words=page.sentence, holds=page.holds),
        overlay=_overlay(page),
        overlay_width=OVERLAY_WIDTH,
        overlay_height=OVERLAY_HEIGHT,
        differences=difference_chart(
            [
                Compared(
                    name=variant.label,
                    words=comparison_words(variant.comparison, is_epochs=page.is_epochs),
                    outcome=variant.outcome,
                    value=variant.comparison.mean,
                    interval=variant.comparison.interval,
                )
                for variant in page.variants
                if variant.comparison is not None
            ],
            none=1.0 if page.is_epochs else 0.0,
        ),
        has_value=page.is_epochs or any(variant.value != variant.ten for variant in page.variants),
        labels=page.labels,
        details=[(run, _confusion(run, page.labels)) for run in page.details],
    )


def comparison_words(found: Spread, *, is_epochs: bool) -> str:
    """Return a difference or a ratio with its interval in one line."""
    form = (lambda value: f"{value:.2f}") if is_epochs else points
    mark = "×" if is_epochs else ""
    if found.interval is None:
        return f"{form(found.mean)}{mark}"
    return f"{form(found.mean)}{mark} ({form(found.interval[0])} to {form(found.interval[1])})"


def _overlay(page: StudyPage) -> OverlayChart | None:
    series = [variant.curve for variant in page.variants if variant.curve is not None]
    return overlay_chart(series, suffix=page.suffix, mark=page.mark) if series else None


def _confusion(run: ShownRun, labels: Sequence[str]) -> Confusion | None:
    return confusion_of(run.confusion, labels)
