"""What a person looks at: one self-contained HTML page about a bundle and the network in it.

The page asks nothing of a network, holds no script, and follows the reader's light or dark scheme.
"""

import base64
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from alexnet_deploy.core.architecture import Conv, Dropout, Flatten, Layer, Linear, LocalNorm, MaxPool, SpatialNorm
from alexnet_deploy.core.manifest import GOLDEN_PICTURES, Manifest, ParityRow, Tolerance
from alexnet_deploy.core.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.weights import EpochMetrics, TrainingRecord

_THUMBNAIL = 176
_MAX_HEATMAP_CLASSES = 30
_NUM_WORST = 15

# Colours that matplotlib can draw with; the page's style sheet decides what they are in light and in dark.
_INK, _MUTED, _ACCENT = "#0a0b01", "#0a0b02", "#0a0b03"
_PAGE_COLORS = {_INK: "currentColor", _MUTED: "var(--muted)", _ACCENT: "var(--accent)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture with what the network said of it."""

    caption: str
    """What it is called."""
    image: np.ndarray
    """uint8 (256, 256, 3), RGB."""
    guesses: tuple[tuple[str, float], ...]
    """Label and probability, best first."""
    truth: str | None
    """Its class; None where that is not known."""

    def __post_init__(self) -> None:
        """Raise ValueError where the image is not one that an engine takes."""
        if self.image.dtype != np.uint8 or self.image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
            found = f"{self.image.dtype} {self.image.shape}"
            raise ValueError(f"{self.caption}: an image of {found}, where uint8 (256, 256, 3) is needed")


def render_report(
    *,
    name: str,
    manifest: Manifest,
    labels: Sequence[str],
    training: TrainingRecord | None,
    pictures: Sequence[Picture],
) -> bytes:
    """Return one self-contained HTML page, UTF-8: the proof, the training, the pictures and the layers of a bundle.

    `labels` are K names in the order of the probabilities; `training` is None where it is not known. The page makes no
    request and holds no script, every name in it is escaped, and the same input gives the same bytes.
    """
    page = _template().render(
        name=name,
        manifest=manifest,
        verdict=_verdict(manifest),
        rows=[(row, _holds(row, manifest.golden.tolerance)) for row in manifest.parity],
        faults=_fault_chart(manifest.golden.separation),
        labels=labels,
        training=training,
        curves=_curves(training, len(labels)) if training is not None and training.epochs else None,
        confusion=_confusion(training.confusion, labels) if training is not None else None,
        is_heatmap=len(labels) <= _MAX_HEATMAP_CLASSES,
        pictures=pictures,
        layers=list(manifest.architecture.costs()),
    )
    # A file name that is no Unicode has surrogates in it.
    return page.encode(errors="replace")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "duration": _duration,
        "kind": _kind,
        "multiple": _multiple,
        "percent": _percent,
        "short": _short,
        "thumbnail": _thumbnail,
        "times": _times,
        "words": _words,
    }
    return environment.get_template("report.html.jinja")


def _holds(row: ParityRow, tolerance: Tolerance) -> bool:
    # A row without failures is held against the tolerance once more, so that NaN fails here too.
    return row.passed and row.max_error <= tolerance.probability


def _verdict(manifest: Manifest) -> str:
    rows, tolerance = manifest.parity, manifest.golden.tolerance
    if not rows:
        return "Nothing is proved yet: no engine has run the golden pictures."
    if num_failed := sum(not _holds(row, tolerance) for row in rows):
        failed = f"{num_failed} of {_counted(len(rows), 'comparison')} failed"
        return f"This engine does not say what the trained network says: {failed}."
    numbers = {row.pictures: row.num_images for row in rows}
    golden, others = numbers.pop(GOLDEN_PICTURES, 0), sum(numbers.values())
    parts = ([_counted(golden, "golden picture")] if golden else []) + ([_counted(others, "picture")] if others else [])
    num_engines = len({row.backend for row in rows} - {"torch"})
    return (
        "This engine says what the trained network says: largest difference "
        f"{_short(max(row.max_error for row in rows))} over {' and '.join(parts)} on "
        f"{_counted(num_engines, 'engine')}, where {_short(tolerance.probability)} is allowed."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FaultChart:
    """The planted faults on a logarithmic scale that runs from 10 ** low to 10 ** high."""

    faults: tuple[tuple[str, float, float], ...]
    """Name, multiple of the tolerance, and where its bar ends as a power of ten; the furthest first."""
    low: int
    """0 or less: the bars start at the tolerance itself."""
    high: int

    @property
    def ticks(self) -> list[int]:
        """The powers of ten that are named: what is allowed, ten times as much, and some beyond."""
        num_decades = self.high - self.low
        return sorted({self.low, 0, *range(1, self.high + 1, 1 if num_decades <= 5 else 2 if num_decades <= 7 else 4)})


def _fault_chart(separation: dict[str, float]) -> _FaultChart:
    # A fault that moves nothing, or gives NaN, stands at the scale's end rather than beyond it.
    clipped = {name: 1e-3 if math.isnan(value) else min(max(value, 1e-3), 1e9) for name, value in separation.items()}
    faults = [(name, separation[name], math.log10(value)) for name, value in clipped.items()]
    return _FaultChart(
        faults=tuple(sorted(faults, key=lambda fault: (-fault[2], fault[0]))),
        low=min(0, math.floor(min((exponent for _, _, exponent in faults), default=0))),
        high=max(2, math.ceil(max((exponent for _, _, exponent in faults), default=0))),
    )


def _curves(training: TrainingRecord, num_classes: int) -> tuple[str, str, str]:
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
    _choose_scale(axes, rates, log_from=9)


def _draw_line(axes: Axes, epochs: Sequence[EpochMetrics], values: Sequence[float], color: str) -> None:
    # A single epoch is a dot and no line.
    marker = "o" if len(epochs) <= 12 else ""
    axes.plot([e.epoch for e in epochs], values, color=color, lw=1.6, marker=marker, ms=3, clip_on=False)


def _mark(axes: Axes, epochs: Sequence[EpochMetrics], values: Sequence[float], best: int) -> None:
    heights = [value for epoch, value in zip(epochs, values, strict=True) if epoch.epoch == best]
    for height in heights:
        axes.axvline(best, color=_INK, lw=0.7, dashes=(1.5, 2.5))
        axes.plot(best, height, color=_ACCENT, marker="o", ms=6, clip_on=False)


def _choose_scale(axes: Axes, values: Sequence[float], *, log_from: float) -> None:
    """Make the scale logarithmic where the values span a factor of `log_from`; from zero otherwise."""
    low, high = min(values), max(values)
    if low > 0 and log_from * low <= high < math.inf:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.6, high * 1.6)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.06 * high if 0 < high < math.inf else None)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _plot(name: str, draw: Callable[[Axes], None], epochs: Sequence[EpochMetrics]) -> str:
    """Return a plot as an SVG element without a size of its own, in the page's colours and font."""
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
    # Its style sheet would reach the whole page, and its fonts are not the reader's.
    svg = re.sub(r"<style.*?</style>|<!--.*?-->| font-family: [^;\"]*;?", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    # Several plots share a page; their ids must not.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for color, meaning in _PAGE_COLORS.items():
        svg = svg.replace(color, meaning)
    return svg


@dataclass(frozen=True, slots=True, kw_only=True)
class _Confusion:
    """Who was taken for whom."""

    accuracies: tuple[tuple[str, float | None], ...]
    """Each class with its share of right guesses; None where it has no validation picture."""
    worst: tuple[tuple[str, float | None], ...]
    """The classes that are told apart worst."""
    pairs: tuple[tuple[str, str, int, float], ...]
    """Truth, guess, pictures, share of the truth's pictures; the most frequent first."""
    num_right: int
    num_pictures: int


def _confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> _Confusion | None:
    """Return what the matrix says; None where training ended before there was one."""
    num_classes = len(labels)
    if [len(row) for row in matrix] != num_classes * [num_classes]:
        return None
    counts = np.array(matrix, dtype=np.int64)
    totals, right = counts.sum(axis=1), counts.diagonal()
    wrong = counts - np.diag(right)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_WORST]
    confused = [divmod(int(place), num_classes) for place in order if wrong.flat[place]]
    known = zip(labels, right.tolist(), totals.tolist(), strict=True)
    accuracies = tuple((label, hits / total if total else None) for label, hits, total in known)
    return _Confusion(
        accuracies=accuracies,
        worst=tuple(sorted(accuracies, key=lambda pair: math.inf if pair[1] is None else pair[1])[:_NUM_WORST]),
        pairs=tuple((labels[i], labels[j], int(wrong[i, j]), float(wrong[i, j] / totals[i])) for i, j in confused),
        num_right=int(right.sum()),
        num_pictures=int(totals.sum()),
    )


def _thumbnail(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    small = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    small.save(buffer, format="JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _kind(layer: Layer) -> str:
    match layer:
        case Conv():
            stride = f", stride {layer.stride}" if layer.stride > 1 else ""
            groups = f", {layer.groups} groups" if layer.groups > 1 else ""
            return f"convolution {_times((layer.kernel, layer.kernel))}{stride}{groups}"
        case LocalNorm():
            return f"normalisation over {layer.size} channels"
        case SpatialNorm():
            return f"normalisation over {_times((layer.size, layer.size))} pixels"
        case MaxPool():
            return f"maximum of {_times((layer.kernel, layer.kernel))}, stride {layer.stride}"
        case Linear():
            return "fully connected"
        case Dropout():
            return f"dropout of {layer.probability:g}, in training only"
        case Flatten():
            return "flatten"
        case _:
            return "ReLU"


def _times(numbers: Iterable[int]) -> str:
    return "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".join(map(str, numbers))


def _short(value: float, form: str = ".2g") -> str:
    """Return two significant digits: 2.4e-7, 0.01, NaN."""
    if not value or not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite" if value else "0"
    return re.sub(r"e([+-])0*", lambda match: f"e{match[1].replace('+', '')}", format(value, form))


def _multiple(value: float) -> str:
    """Return 0.4×, 3.7× or 160,000×."""
    return f"{float(f'{value:.2g}'):,.0f}×" if 10 <= value < math.inf else f"{_short(value)}×"


def _percent(share: float) -> str:
    """Return a share as 98.5 %; only what is all or nothing reads 100 % or 0 %."""
    if share in (0, 1):
        return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    sign = "<" if share < 0.001 else ">" if share > 0.999 else ""
    return f"{sign}{100 * min(max(share, 0.001), 0.999):.1f}\N{NO-BREAK SPACE}%"


def _words(number: int) -> str:
    """Return 809,572 or 60.97 million."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.4g}\N{NO-BREAK SPACE}{name}"
    return f"{number:,}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    """Return 4.5 s, 1 min 59 s or 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
