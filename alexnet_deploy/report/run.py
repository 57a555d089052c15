"""What a person looks at after training: one self-contained HTML page about what was learnt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alexnet_deploy.core.bundle.accuracy import share_interval
from alexnet_deploy.core.model.architecture import Conv
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.core.process.say import counted, printable
from alexnet_deploy.engines.proof.accuracy import paired_interval_points
from alexnet_deploy.report.page import Thumbnail, Verdict, inlined, render_page
from alexnet_deploy.report.training import training_part
from alexnet_deploy.report.wording import interval, percent
from alexnet_deploy.train.loop.evaluation import Answers, Evaluation

NUM_SHOWN = 24
"""Wrong images in the gallery at most."""

_NUM_GUESSES = 3
_MOST_SCALE = 6
_WIDE, _NARROW = 860, 330


def render_run_report(*, name: str, loaded: LoadedWeights, evaluation: Evaluation, wrong: Sequence[Thumbnail]) -> bytes:
    """Return one self-contained HTML page, UTF-8, on weights that were trained, with what they say of images.

    `wrong` are those of `most_wrong`, in its order. The page makes no request and holds no script, every name in it is
    escaped, and the same input gives the same bytes.
    """
    weights = loaded.weights
    assert weights.training is not None, "these weights have just been trained"
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
    """Return places among the evaluated images, int64 (NUM_SHOWN or fewer,), whose first guess is wrong by ten views.

    The surest of its wrong guess comes first; of equals the first in order.
    """
    wrong = np.flatnonzero(~_is_right(evaluation, evaluation.ten))
    sureness = evaluation.ten.probabilities[wrong, 0]
    return wrong[np.argsort(-sureness, kind="stable")[:NUM_SHOWN]]


def wrong_image(evaluation: Evaluation, place: int, name: str, image: np.ndarray, labels: Sequence[str]) -> Thumbnail:
    """Return the evaluated image at a place for the gallery, with what ten views say of it."""
    guesses, probabilities = evaluation.ten.guesses[place], evaluation.ten.probabilities[place]
    said = zip(guesses[:_NUM_GUESSES].tolist(), probabilities[:_NUM_GUESSES].tolist(), strict=True)
    return Thumbnail(
        caption=name,
        image=image,
        guesses=tuple((labels[guess], probability) for guess, probability in said),
        truth=labels[evaluation.truths[place]],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good one way of asking is."""

    num_right: int
    """By the first guess."""
    top1: float
    """Share whose first guess is right, 0..1."""
    interval: tuple[float, float]
    """95 % confidence interval of `top1`."""
    top5: float
    """Share whose first five guesses hold the right one, 0..1."""
    loss: float
    """Mean cross-entropy in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """Ten views against the centre view."""

    num_images: int
    center: Score
    ten: Score
    outcomes: tuple[tuple[str, int], ...]
    """Right by both, by one, by neither, and how many."""
    gain_points: float
    """Percentage points of top-1 that ten views are above."""
    gain_interval: tuple[float, float]
    """95 % confidence interval of it."""


def score(evaluation: Evaluation, answers: Answers) -> Score:
    """Return how good one of an evaluation's two ways of asking is."""
    is_right = _is_right(evaluation, answers)
    return Score(
        num_right=int(is_right.sum()),
        top1=float(is_right.mean()),
        interval=share_interval(int(is_right.sum()), len(is_right)),
        top5=float((answers.guesses == evaluation.truths[:, None]).any(axis=1).mean()),
        loss=float(answers.losses.mean()),
    )


def _is_right(evaluation: Evaluation, answers: Answers) -> np.ndarray:
    is_right: np.ndarray = answers.guesses[:, 0] == evaluation.truths
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
        f"{ten.num_right:,} of {counted(num_images, 'validation image')} right by ten views, {percent(ten.top1)} "
        f"(95 % interval {interval(*ten.interval)}); by the centre view {center.num_right:,}, {percent(center.top1)} "
        f"({interval(*center.interval)})."
    )
    counts = np.bincount(evaluation.truths, minlength=len(labels))
    most = int(counts.max())
    if ten.interval[0] <= most / num_images:
        how = "no" if ten.num_right <= most else "hardly"
        # In a sentence, where a label that turns the direction would turn the rest of it too.
        blind = printable(labels[int(counts.argmax())])
        words += f" That is {how} more than always saying “{blind}”: {percent(most / num_images)}."
        return Verdict(words=words, holds=False if ten.num_right <= most else None)
    return Verdict(words=words, holds=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filters:
    """The first layer's filters in one image."""

    layer: str
    count: int
    kernel: int
    image: str
    """A PNG, a pixel a weight."""
    size: tuple[int, int]
    """Its width and height."""
    scales: tuple[int, int]
    """How much larger it is shown, on a wide page and on a narrow one."""
    largest: tuple[float, float]
    """The least and the greatest of the filters' largest weights."""


def _filters(loaded: LoadedWeights) -> _Filters | None:
    """Return the image of the filters; None where the first layer is none of RGB."""
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
    """Return filters (C, 3, H, W), RGB, side by side, uint8 RGBA, and the largest magnitude of each, (C,).

    0 is mid-grey, 128, and a filter's largest weight, of either sign, as far from it as can be, 1 or 255; a filter of
    zeros is grey. Row by row in the layer's order, with a clear pixel between two.
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
    """Return how many stand side by side: about half again as many as there are rows, and rows that are full."""
    wanted = math.sqrt(1.5 * count)
    best = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: abs(math.log(n / wanted)))
    return best if abs(math.log(best / wanted)) < math.log(1.5) else math.ceil(wanted)
