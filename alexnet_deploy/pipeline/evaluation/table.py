"""The results of an evaluation as a table of text."""

from collections.abc import Iterator

from alexnet_deploy.core.process.say import counted
from alexnet_deploy.inspection.table import numbers, or_dash, text_table, words
from alexnet_deploy.pipeline.evaluation.evaluate import Evaluation, EvaluationRow, short_names
from alexnet_deploy.pipeline.evaluation.scores import TOP
from alexnet_deploy.pipeline.loadgen.early_stopping import runs_needed

_LEAST_IMPORTANT = ("p99 ms", "arithmetic", "top-5", "views", "MB", "ECE", "95 % interval", "images/s")


def evaluation_table(found: Evaluation, width: int | None = None) -> str:
    """Return one line for each bundle and engine; with `width`, columns that do not fit are dropped."""
    rows = found.rows
    scores = [row.score for row in rows]
    has_views = len({row.views for row in rows}) > 1
    has_top5 = any(row.num_labels > TOP for row in rows)
    columns = [
        words("bundle", short_names([row.bundle for row in rows])),
        words("precision", (row.precision for row in rows)),
        *([words("views", (row.views for row in rows))] if has_views else []),
        words("engine", (f"{row.backend} {row.version}".rstrip() for row in rows)),
        words("arithmetic", (row.arithmetic or "-" for row in rows)),
        numbers("top-1", (_share(None if score is None else score.top1) for score in scores)),
        numbers("95 % interval", ("-" if score is None else _interval(score.top1_interval) for score in scores)),
        numbers("difference", _differences(found)),
        *(
            [numbers("top-5", (or_dash(None if score is None else score.top5, ".2%") for score in scores))]
            if has_top5
            else []
        ),
        numbers("ECE", (or_dash(None if score is None else score.ece, ".4f") for score in scores)),
        numbers("p50 ms", (or_dash(row.latency_p50_ms, ".1f") for row in rows)),
        numbers("p99 ms", (or_dash(row.latency_p99_ms, ".1f") for row in rows)),
        numbers("images/s", (or_dash(row.images_per_second, ",.1f") for row in rows)),
        numbers("MB", (f"{row.size_bytes / 1e6:.1f}" for row in rows)),
    ]
    head = (
        f"{found.data}: {counted(found.num_images, 'image')}, {counted(found.num_classes, 'class', 'classes')}; "
        f"{found.processor}"
    )
    table = text_table(columns, [_status(row) for row in rows], width=width, least_important=_LEAST_IMPORTANT)
    notes = "difference: top-1 minus that of the first row, in points, with its paired 95 % interval"
    if any(row.score is not None and row.latency_p99_ms is None for row in rows):
        notes += f"\np99: needs {runs_needed(0.99)} runs; pass a larger --seconds"
    return f"{head}\n{table}\n{notes}"


def _share(share: float | None) -> str:
    return or_dash(share, ".2%")


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"


def _differences(found: Evaluation) -> Iterator[str]:
    first = next((row for row in found.rows if row.score is not None), None)
    for row in found.rows:
        if row.score is None or row is first:
            yield "-"
        else:
            low, high = row.score.difference_interval_points
            yield f"{row.score.difference_points:+.2f} ({low:+.2f} to {high:+.2f})"


def _status(row: EvaluationRow) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status
