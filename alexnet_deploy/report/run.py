"""The training report: one self-contained HTML page about a run and its weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alexnet_deploy.core.bundle.accuracy import share_interval
from alexnet_deploy.core.confidence.reliability import most_confident_errors
from alexnet_deploy.core.model.architecture import Conv
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.core.process.say import counted, printable
from alexnet_deploy.engines.proof.accuracy import paired_interval_points
from alexnet_deploy.report.page import NUM_ERRORS, NUM_PREDICTIONS, Thumbnail, Verdict, inlined, render_page
from alexnet_deploy.report.training import training_part
from alexnet_deploy.report.wording import interval, percent
from alexnet_deploy.train.loop.evaluation import Answers, Evaluation

_MOST_SCALE = 6
_WIDE, _NARROW = 860, 330


def render_run_report(*, name: str, loaded: LoadedWeights, evaluation: Evaluation, wrong: Sequence[Thumbnail]) -> bytes:
    """Return one self-contained HTML page, UTF-8, about trained weights and their evaluation.

    `wrong` are the images of `most_wrong`, in its order. The page makes no request and contains no script, every name
    in it is escaped, and the same input gives the same bytes.
    """
    weights = loaded.weights
    assert weights.training is not None, "a run's weights have a training record"
    comparison = _compare(evaluation)
    return render_page(
        "report_run.html.jinja",
        name=name,
        weights=weights,
        sha256=loaded.sha256,
        labels=weights.labels,
        training=training_part(weights.training, weights.labels),
        verdict=_verdict(evaluation, comparison, weights.labels),
        comparison=comparison,
        is_part=len(evaluation.numbers) < weights.training.num_validation,
        num_wrong=len(evaluation.numbers) - comparison.ten.num_right,
        images=wrong,
        filters=_filters(loaded),
    )


def most_wrong(evaluation: Evaluation) -> np.ndarray:
    """Return the indices of the highest-confidence errors of ten views, int64 (NUM_ERRORS or fewer,).

    Highest confidence first; ties in the order of the evaluated images.
    """
    is_right = _is_right(evaluation, evaluation.ten)
    return most_confident_errors(evaluation.ten.probabilities[:, 0], is_right)[:NUM_ERRORS]


def wrong_image(evaluation: Evaluation, place: int, name: str, image: np.ndarray, labels: Sequence[str]) -> Thumbnail:
    """Return the evaluated image at index `place` for the gallery, with the predictions of ten views."""
    predictions, probabilities = evaluation.ten.predictions[place], evaluation.ten.probabilities[place]
    said = zip(predictions[:NUM_PREDICTIONS].tolist(), probabilities[:NUM_PREDICTIONS].tolist(), strict=True)
    return Thumbnail(
        caption=name,
        image=image,
        predictions=tuple((labels[index], probability) for index, probability in said),
        truth=labels[evaluation.truths[place]],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracy with one choice of views."""

    num_right: int
    """Number of correct top-1 predictions."""
    top1: float
    """Top-1 accuracy, 0..1."""
    interval: tuple[float, float]
    """95 % confidence interval of `top1`."""
    top5: float
    """Top-5 accuracy, 0..1."""
    loss: float
    """Mean cross-entropy in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """Ten views compared with the centre view."""

    num_images: int
    center: Score
    ten: Score
    outcomes: tuple[tuple[str, int], ...]
    """Which views are correct - both, one, neither - and the number of images."""
    gain_points: float
    """Top-1 of ten views minus top-1 of the centre view, in percentage points."""
    gain_interval: tuple[float, float]
    """95 % confidence interval of `gain_points`."""


def score(evaluation: Evaluation, answers: Answers) -> Score:
    """Return the accuracy of one of an evaluation's two choices of views."""
    is_right = _is_right(evaluation, answers)
    return Score(
        num_right=int(is_right.sum()),
        top1=float(is_right.mean()),
        interval=share_interval(int(is_right.sum()), len(is_right)),
        top5=float((answers.predictions == evaluation.truths[:, None]).any(axis=1).mean()),
        loss=float(answers.losses.mean()),
    )


def _is_right(evaluation: Evaluation, answers: Answers) -> np.ndarray:
    is_right: np.ndarray = answers.predictions[:, 0] == evaluation.truths
    return is_right


def _compare(evaluation: Evaluation) -> _Comparison:
    center, ten = _is_right(evaluation, evaluation.center), _is_right(evaluation, evaluation.ten)
    num_won, num_lost, num_images = int((ten & ~center).sum()), int((center & ~ten).sum()), len(ten)
    low, high = paired_interval_points(num_won, num_lost, num_images)
    return _Comparison(
        num_images=num_images,
        center=score(evaluation, evaluation.center),
        ten=score(evaluation, evaluation.ten),
        outcomes=(
            ("both", int((center & ten).sum())),
            ("ten views only", num_won),
            ("centre view only", num_lost),
            ("neither", int((~center & ~ten).sum())),
        ),
        gain_points=100 * (num_won - num_lost) / num_images,
        gain_interval=(low, high),
    )


def _verdict(evaluation: Evaluation, comparison: _Comparison, labels: Sequence[str]) -> Verdict:
    ten, center, num_images = comparison.ten, comparison.center, comparison.num_images
    words = (
        f"Top-1 with ten views: {percent(ten.top1)}, {ten.num_right:,} of {counted(num_images, 'validation image')} "
        f"(95 % interval {interval(*ten.interval)}); with the centre view: {percent(center.top1)}, "
        f"{center.num_right:,} ({interval(*center.interval)})."
    )
    counts = np.bincount(evaluation.truths, minlength=len(labels))
    most = int(counts.max())
    if ten.interval[0] <= most / num_images:
        how = "not better" if ten.num_right <= most else "hardly better"
        # Inside a sentence, a label with bidirectional control characters would reorder the rest of the sentence.
        blind = printable(labels[int(counts.argmax())])
        words += f" That is {how} than always predicting “{blind}”: {percent(most / num_images)}."
        return Verdict(words=words, holds=False if ten.num_right <= most else None)
    return Verdict(words=words, holds=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filters:
    """The first layer's filters in one image."""

    layer: str
    count: int
    kernel: int
    image: str
    """A PNG with one pixel per weight."""
    size: tuple[int, int]
    """Its width and height."""
    scales: tuple[int, int]
    """Display scale on a wide page and on a narrow one."""
    largest: tuple[float, float]
    """Minimum and maximum of the filters' largest weights."""


def _filters(loaded: LoadedWeights) -> _Filters | None:
    """Return the image of the filters; None if the first layer is not a convolution on RGB."""
    weights = loaded.weights
    first = weights.architecture.layers[0]
    if not isinstance(first, Conv) or first.groups > 1:
        return None
    tensor = weights.tensors[f"{first.name}.weight"][:, list(weights.preprocessing.channel_indices)]
    grid, largest = filter_grid(tensor)
    height, width = grid.shape[:2]
    wide, narrow = (max(1, min(_MOST_SCALE, room // width)) for room in (_WIDE, _NARROW))
    return _Filters(
        layer=first.name,
        count=len(tensor),
        kernel=first.kernel,
        image=inlined(Image.fromarray(grid), "PNG"),
        size=(width, height),
        scales=(wide, narrow),
        largest=(float(largest.min()), float(largest.max())),
    )


def filter_grid(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return filters (C, 3, H, W), RGB, as one image, uint8 RGBA, and the largest magnitude of each, (C,).

    A weight of 0 is mid-grey, 128; a filter's largest weight is 1 or 255, by its sign; a filter of zeros is grey. The
    filters are laid out row by row in the layer's order, with a transparent pixel between two.
    """
    count, _, height, width = filters.shape
    largest = np.abs(filters).max(axis=(1, 2, 3))
    scaled = filters / np.where(largest > 0, largest, 1.0)[:, None, None, None]
    tiles = np.rint(128 + 127 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    columns = _num_columns(count)
    rows = -(-count // columns)
    grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        grid[top : top + height, left : left + width] = np.concatenate(
            [tile, np.full((height, width, 1), 255, np.uint8)], axis=2
        )
    return grid, largest


def _num_columns(count: int) -> int:
    """Return the number of columns: about 1.5 times the number of rows, with full rows where possible."""
    wanted = math.sqrt(1.5 * count)
    best = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: abs(math.log(n / wanted)))
    return best if abs(math.log(best / wanted)) < math.log(1.5) else math.ceil(wanted)
