"""Training curves as inline SVG, drawn by matplotlib in colours from the page's style sheet."""

import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from alexnet_deploy.core.model.weights import EpochMetrics, TrainingRecord
from alexnet_deploy.report.wording import short

# Placeholder colours for matplotlib; the page's style sheet maps them to its light and dark schemes.
_INK, _MUTED, _ACCENT = "#0a0b01", "#0a0b02", "#0a0b03"
_STEP = 3.0
"""A learning rate that falls by at least this factor from one epoch to the next was stepped down."""
_MOST_LEVELS = 5

_PAGE_COLORS = {_INK: "currentColor", _MUTED: "var(--muted)", _ACCENT: "var(--accent)"}


def training_curves(training: TrainingRecord, num_classes: int) -> tuple[str, str, str]:
    """Return loss, validation error and learning rate over epochs, each an SVG element."""
    epochs, best = training.epochs, training.best_epoch
    return (
        _plot("loss", lambda axes: _draw_loss(axes, epochs, best), epochs),
        _plot("error", lambda axes: _draw_error(axes, epochs, best, with_top5=num_classes > 5), epochs),
        _plot("rate", lambda axes: _draw_rate(axes, epochs, best), epochs),
    )


def _draw_loss(axes: Axes, epochs: Sequence[EpochMetrics], best: int) -> None:
    train, validation = [e.train_loss for e in epochs], [e.validation_loss for e in epochs]
    _draw_line(axes, epochs, train, _MUTED)
    _draw_line(axes, epochs, validation, _ACCENT)
    _mark(axes, epochs, validation, best)
    _choose_scale(axes, [*train, *validation], log_from=30)


def _draw_error(axes: Axes, epochs: Sequence[EpochMetrics], best: int, *, with_top5: bool) -> None:
    top1 = [100 * (1 - e.validation_top1) for e in epochs]
    if with_top5:
        _draw_line(axes, epochs, [100 * (1 - e.validation_top5) for e in epochs], _MUTED)
    _draw_line(axes, epochs, top1, _ACCENT)
    _mark(axes, epochs, top1, best)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))


def _draw_rate(axes: Axes, epochs: Sequence[EpochMetrics], best: int) -> None:
    rates = [e.learning_rate for e in epochs]
    edges = [epochs[0].epoch - 0.5 + step for step in range(len(rates) + 1)]
    axes.stairs(rates, edges, baseline=None, color=_ACCENT, lw=1.6)
    _mark(axes, epochs, rates, best)
    # Steps get a logarithmic scale with a tick at each level; a gradual decay, which may end near 0, a linear one.
    falls = [before / after for before, after in pairwise(rates) if before != after > 0]
    is_divided = max(falls, default=1.0) >= _STEP and 2 * len(falls) < len(rates)
    _choose_scale(axes, rates, log_from=_STEP if is_divided else math.inf)
    if axes.get_yscale() == "log" and len(levels := sorted(set(rates))) <= _MOST_LEVELS:
        axes.yaxis.set_major_locator(FixedLocator(levels))


def _draw_line(axes: Axes, epochs: Sequence[EpochMetrics], values: Sequence[float], color: str) -> None:
    # A single epoch is drawn as a dot: there is no line.
    marker = "o" if len(epochs) <= 12 else ""
    axes.plot([e.epoch for e in epochs], values, color=color, lw=1.6, marker=marker, ms=3, clip_on=False)


def _mark(axes: Axes, epochs: Sequence[EpochMetrics], values: Sequence[float], best: int) -> None:
    heights = [value for epoch, value in zip(epochs, values, strict=True) if epoch.epoch == best]
    for height in heights:
        axes.axvline(best, color=_INK, lw=0.7, dashes=(1.5, 2.5))
        axes.plot(best, height, color=_ACCENT, marker="o", ms=6, clip_on=False)


def _choose_scale(axes: Axes, values: Sequence[float], *, log_from: float) -> None:
    """Use a logarithmic scale if the values span a factor of `log_from`, otherwise a linear scale from zero."""
    low, high = min(values), max(values)
    if low > 0 and log_from * low <= high < math.inf:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.6, high * 1.6)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.06 * high if 0 < high < math.inf else None)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _plot(name: str, draw: Callable[[Axes], None], epochs: Sequence[EpochMetrics]) -> str:
    """Return a plot as an SVG element without a fixed size, in the page's colours and font."""
    buffer = io.StringIO()
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10.0}]):
        figure = Figure(figsize=(2.95, 2.05))
        axes = figure.add_axes((0.17, 0.13, 0.81, 0.83))
        draw(axes)
        axes.set_xlim(epochs[0].epoch - 0.5, epochs[-1].epoch + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=_MUTED, alpha=0.25, lw=0.6)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(_MUTED)
        axes.tick_params(colors=_MUTED, length=0, pad=5)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inlined(buffer.getvalue(), name)


def _inlined(svg: str, name: str) -> str:
    # The SVG's style sheet would apply to the whole page, and its fonts may be missing on the reader's machine.
    svg = re.sub(r"<style.*?</style>|<!--.*?-->| font-family: [^;\"]*;?", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    # Several plots share a page, so their ids need a prefix.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for color, meaning in _PAGE_COLORS.items():
        svg = svg.replace(color, meaning)
    return svg
