"""The page of an evaluation: its table, and the first engine that ran in detail, with its errors decoded again."""

from pathlib import Path

import numpy as np

from alexnet_deploy.core.confidence.reliability import coverage_curve, most_confident_errors
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.pipeline.evaluation.evaluate import Evaluation, EvaluationRow, RowAnswers, short_names
from alexnet_deploy.predict.stream import decode_input
from alexnet_deploy.report.page import NUM_ERRORS, NUM_PREDICTIONS, Thumbnail, save_page
from alexnet_deploy.report.pages.evaluation import Details, ShownRow, render_evaluation


def write_page(path: Path, found: Evaluation, first: RowAnswers | None) -> None:
    """Write the page of an evaluation; `first` are the answers of the first engine that ran, if one did.

    Raises OutputError where it cannot be written, and ImageError where a shown image cannot be read again.
    """
    page = render_evaluation(
        data=found.data,
        num_images=found.num_images,
        processor=found.processor,
        rows=tuple(map(_shown, found.rows, short_names([row.bundle for row in found.rows]))),
        details=None if first is None else _details(first, found.data),
        tools=tool_versions("onnxruntime", "openvino"),
    )
    save_page(path, page)


def _shown(row: EvaluationRow, name: str) -> ShownRow:
    score = row.score
    nothing = (float("nan"), float("nan"))
    return ShownRow(
        bundle=name,
        precision=row.precision,
        engine=f"{row.backend} {row.version}".rstrip(),
        arithmetic=row.arithmetic,
        top1=None if score is None else score.top1,
        top1_interval=nothing if score is None else score.top1_interval,
        difference_points=float("nan") if score is None else score.difference_points,
        difference_interval=nothing if score is None else score.difference_interval_points,
        top5=float("nan") if score is None else score.top5,
        ece=float("nan") if score is None else score.ece,
        p50_ms=row.latency_p50_ms or float("nan"),
        p99_ms=row.latency_p99_ms,
        images_per_second=row.images_per_second or float("nan"),
        size_bytes=row.size_bytes,
        reason=row.reason,
    )


def _details(first: RowAnswers, data: str) -> Details:
    answers, truths, labels = first.answers, first.truths, first.bundle.labels
    assert answers is not None
    assert first.row.score is not None
    is_read, hits = answers.is_read, answers.hits(truths)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (truths[is_read], answers.guesses[is_read, 0]), 1)
    order = most_confident_errors(answers.probabilities[:, 0], hits | ~is_read)
    return Details(
        labels=labels,
        confusion=counts.tolist(),
        reliability=first.row.score.reliability,
        curve=coverage_curve(answers.probabilities[is_read, 0], hits[is_read]),
        at_thresholds=first.row.score.coverage,
        errors=tuple(_thumbnail(first, int(number), data) for number in order[:NUM_ERRORS]),
        num_errors=len(order),
    )


def _thumbnail(first: RowAnswers, number: int, data: str) -> Thumbnail:
    assert first.answers is not None
    item, labels = first.inputs[number], first.bundle.labels
    guesses, probabilities = first.answers.guesses[number].tolist(), first.answers.probabilities[number].tolist()
    said = zip(guesses[:NUM_PREDICTIONS], probabilities[:NUM_PREDICTIONS], strict=True)
    return Thumbnail(
        caption=item.text.removeprefix(f"{data.rstrip('/')}/"),
        image=decode_input(item, first.bundle.manifest.preprocessing.image_policy, DEFAULT_LIMITS),
        predictions=tuple((labels[index], probability) for index, probability in said),
        truth=labels[first.truths[number]],
    )
