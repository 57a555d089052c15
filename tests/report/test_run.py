"""The training report: correct, complete and self-contained for any result of training."""

import base64
import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
from networks import narrowed, separating_weights, with_tensor
from PIL import Image
from report_pages import IMAGES, LABELS, Page, check_self_contained, make_training, text_outside_bdi

from alexnet_deploy.core.bundle.accuracy import share_interval
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import LoadedWeights, TrainingRecord, Weights
from alexnet_deploy.report.page import NUM_ERRORS
from alexnet_deploy.report.run import filter_grid, most_wrong, render_run_report, wrong_image
from alexnet_deploy.train.loop.evaluation import Answers, Evaluation


def answers(probabilities: np.ndarray, truths: np.ndarray) -> Answers:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return Answers(
        predictions=order,
        probabilities=np.take_along_axis(probabilities, order, axis=1).astype(np.float32),
        losses=-np.log(probabilities[range(len(truths)), truths]),
    )


def make_evaluation(
    truths: Sequence[int],
    center: Sequence[int],
    ten: Sequence[int],
    num_classes: int = 4,
    confidence: Sequence[float] = (),
) -> Evaluation:
    """Return an evaluation from true classes and top-1 predictions; `confidence` is the confidence of ten views."""
    classes = np.array(truths)

    def said(guesses: Sequence[int], sure: Sequence[float]) -> Answers:
        of_others = (1 - np.array(sure)) / (num_classes - 1)
        probabilities = np.repeat(of_others[:, None], num_classes, axis=1)
        probabilities[range(len(classes)), list(guesses)] = sure
        return answers(probabilities, classes)

    return Evaluation(
        numbers=np.arange(len(classes)),
        truths=classes,
        center=said(center, [0.6] * len(classes)),
        ten=said(ten, confidence or [0.7] * len(classes)),
    )


ALL_RIGHT = make_evaluation(*3 * [[0, 1, 2, 3] * 25])


@pytest.fixture(scope="module")
def some_weights() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"], divisor=16))


def render(
    weights: Weights,
    evaluation: Evaluation = ALL_RIGHT,
    *,
    name: str = "tiny-one",
    labels: Sequence[str] = LABELS,
    training: TrainingRecord | None = None,
    names: Sequence[str] = (),
) -> bytes:
    """Return the page; images are named `names` or by their numbers, and show one of the drawn images."""
    found = Weights(
        architecture=weights.architecture,
        tensors=weights.tensors,
        preprocessing=weights.preprocessing,
        labels=tuple(labels),
        training=training or make_training(num_classes=len(labels)),
        tools={"python": "3.11.7", "torch": "2.13.0"},
    )
    wrong = [
        wrong_image(evaluation, place, names[place] if names else f"image {place}", IMAGES[place % 8], labels)
        for place in most_wrong(evaluation)
    ]
    loaded = LoadedWeights(weights=found, path=None, sha256="ab12" * 16)  # type: ignore[arg-type]
    return render_run_report(name=name, loaded=loaded, evaluation=evaluation, wrong=wrong)


def pixels_of(raw: bytes) -> np.ndarray:
    (data,) = re.findall(rb"data:image/png;base64,([^\"]*)", raw)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize(
    ("num_right", "num_images", "wanted"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_the_interval_is_that_of_the_literature(num_right: int, num_images: int, wanted: tuple[float, float]) -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert share_interval(num_right, num_images) == pytest.approx(wanted, abs=5e-5)
    low, high = wanted
    assert share_interval(num_images - num_right, num_images) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_head_says_how_many_are_right(some_weights: Weights) -> None:
    truths = [0, 1, 2, 3] * 25
    center, ten = [0, 0, *truths[2:]], [1, 0, *truths[2:]]
    text = Page(render(some_weights, make_evaluation(truths, center, ten))).text
    assert (
        "Top-1 with ten views: 98.0 %, 98 of 100 validation images (95 % interval 93.0 to 99.4 %); "
        "with the centre view: 99.0 %, 99 (94.6 to 99.8 %)."
    ) in text
    for fact in (
        "tiny-one",
        "caffe",
        "8 of 8",
        "1 min 59 s",
        "cpu, 2 threads",
        "ab12ab12ab12",
        "drawn",
        "torch 2.13.0",
    ):
        assert fact in text
    assert "hardly better" not in text


def test_ten_views_and_one_are_held_against_each_other(some_weights: Weights) -> None:
    truths = [0, 0, 1, 1, 2, 2, 3, 3, 0, 1]
    center = [0, 0, 1, 1, 2, 0, 0, 0, 0, 2]
    ten = [0, 0, 1, 1, 0, 2, 3, 0, 1, 1]
    text = Page(render(some_weights, make_evaluation(truths, center, ten))).text
    assert "Centre view 6 60.0 % 31.3 to 83.2 % 1.1125" in text, "-(6 ln 0.6 + 4 ln 0.4/3) / 10"
    assert "Ten views 7 70.0 % 39.7 to 89.2 % 0.9404" in text, "-(7 ln 0.7 + 3 ln 0.3/3) / 10"
    assert "both 4 ten views only 3 centre view only 2 neither 1" in text
    # (4 - 3) / 12, and 1.96 times the root of (7 / 12 - 1 / 144) / 12 to either side.
    gain = "Ten views gain 10.00 points of top-1; the 95 % interval of the gain is −34.62 to 51.29 points."
    assert gain in text
    swapped = Page(render(some_weights, make_evaluation(truths, ten, center))).text
    assert "Ten views lose 10.00 points of top-1" in swapped


@pytest.mark.parametrize(("num_classes", "has_top5"), [(4, False), (10, True)])
def test_top5_is_told_where_there_are_more_than_five_classes(num_classes: int, has_top5: bool) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["paper"], divisor=16, num_classes=num_classes))
    labels = [f"class {number}" for number in range(num_classes)]
    # All classes but the first have equal probability, so the last four of ten classes are not in the top 5.
    evaluation = make_evaluation([0, 1, num_classes - 1, 2], [0] * 4, [1] * 4, num_classes)
    text = Page(render(weights, evaluation, labels=labels)).text
    assert ("Top-5" in text) is has_top5
    assert ("Ten views 1 25.0 % 4.6 to 69.9 % 75.0 %" in text) is has_top5


def test_what_is_no_better_than_a_blind_guess_is_not_praised(some_weights: Weights) -> None:
    truths = [0] * 50 + [1] * 50
    for num_right, words in ((50, True), (55, True), (90, False)):
        ten = [0] * 50 + [1] * (num_right - 50) + [0] * (100 - num_right)
        raw = render(some_weights, make_evaluation(truths, ten, ten))
        how = "not" if num_right == 50 else "hardly"
        said = f"That is {how} better than always predicting “{LABELS[0]}”: 50.0 %."
        assert (said in Page(raw).text) is words
        assert (b'class="verdict good"' in raw) is not words
        assert (b'class="verdict bad"' in raw) == (num_right == 50)


def test_the_surest_of_the_wrong_come_first(some_weights: Weights) -> None:
    truths = [3] * 40
    guesses = [3 if number % 4 == 0 else 1 for number in range(40)]
    confidence = np.random.default_rng(0).permutation(np.linspace(0.3, 0.99, 40))
    confidence[[6, 17]] = 0.995
    raw = render(some_weights, make_evaluation(truths, guesses, guesses, confidence=confidence.tolist()))
    shown = [int(number) for number in re.findall(rb'alt="image (\d+)"', raw)]
    wrong = [number for number in range(40) if guesses[number] != 3]
    assert shown == sorted(wrong, key=lambda number: -confidence[number])[:NUM_ERRORS]
    assert shown[:2] == [6, 17]
    text = Page(raw).text
    assert "24 of 30 errors" in text
    assert "image 6 ✗ label: umbrella hot-air balloon 99.5 %" in text
    assert text.count("✗ label: umbrella") == NUM_ERRORS


def test_the_gallery_holds_the_one_that_is_wrong_or_says_that_none_is(some_weights: Weights) -> None:
    text = Page(render(some_weights)).text
    assert "All 100 validation images are predicted correctly." in text
    assert "✗" not in text
    one = make_evaluation([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 2])
    raw = render(some_weights, one)
    assert re.findall(rb'alt="image (\d+)"', raw) == [b"3"]
    assert re.search(r"\d of \d+ errors", Page(raw).text) is None


@pytest.mark.parametrize("num_classes", [2, 10, 31, 1000])
def test_any_number_of_classes_renders(num_classes: int) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["paper"], divisor=16, num_classes=num_classes))
    labels = [f"class {number}" for number in range(num_classes)]
    random = np.random.default_rng(1)
    truths = random.integers(0, num_classes, 120)
    ten = np.where(random.random(120) < 0.7, truths, random.integers(0, num_classes, 120))
    raw = render(weights, make_evaluation(truths.tolist(), truths.tolist(), ten.tolist(), num_classes), labels=labels)
    check_self_contained(raw)
    page = Page(raw)
    assert (b'class="matrix' in raw) == (num_classes <= 30)
    assert ("Lowest recall" in page.text) == (num_classes > 30)
    assert not re.search(r"\bnan\b|NaN|\binf|None |Undefined", page.text)


def test_the_same_input_gives_the_same_bytes_and_needs_nothing_else(some_weights: Weights) -> None:
    wrong = make_evaluation([0, 1, 2, 3], [0, 1, 2, 3], [1, 1, 2, 2])
    raw = render(some_weights, wrong)
    assert raw == render(some_weights, wrong)
    check_self_contained(raw)


def test_names_cannot_become_markup(some_weights: Weights) -> None:
    evil = '<script>alert("1")</script>\'&$x^$\N{CJK UNIFIED IDEOGRAPH-732B}'
    training = make_training(data=evil, device=evil, recipe={"name": evil, evil: evil}, excluded={evil: "truncated"})
    raw = render(
        some_weights,
        make_evaluation([0, 1], [0, 0], [0, 0]),
        name=evil,
        labels=(evil, *LABELS[1:]),
        training=training,
        names=["", evil],
    )
    page = Page(raw)
    assert "script" not in page.tags
    assert b"<script" not in raw
    assert b'"1"' not in raw
    assert page.text.count(evil) >= 6
    odd = render(some_weights, make_evaluation([0, 1], [0, 0], [0, 0]), names=["", "bad-\udcff.jpg"])
    assert b"bad-?.jpg" in odd


@pytest.mark.parametrize("num_classes", [4, 300])
def test_names_that_turn_the_direction_turn_nothing_else(num_classes: int) -> None:
    turns = "\N{RIGHT-TO-LEFT OVERRIDE}name"
    labels = tuple(f"{turns} {number}" for number in range(num_classes))
    training = make_training(
        num_classes=num_classes, data=turns, excluded={turns: "truncated"}, recipe={"name": turns, "epochs": 1}
    )
    weights = separating_weights(narrowed(ARCHITECTURES["caffe"], divisor=16, num_classes=num_classes))
    raw = render(
        weights,
        make_evaluation([0, 1], [0, 0], [0, 0], num_classes),
        name=turns,
        labels=labels,
        training=training,
        names=["", turns],
    )
    assert raw.decode().count(turns) > 8
    assert turns not in text_outside_bdi(raw)


def test_remarks_what_was_left_out_and_a_part_are_told(some_weights: Weights) -> None:
    remark = "the loss stands still; try less"
    training = make_training(remarks=(remark,), excluded={"umbrella/torn.jpg": "truncated"}, num_validation=50_000)
    text = Page(render(some_weights, training=training)).text
    assert "The loss stands still; try less." in text
    assert "50,000 validation, 1 skipped" in text
    assert "umbrella/torn.jpg truncated" in text
    assert "100 of 50,000 validation images were evaluated, evenly spaced." in text
    assert "evenly spaced" not in Page(render(some_weights)).text


# Filters


def test_the_filters_are_drawn_weight_by_weight_in_their_colours(some_weights: Weights) -> None:
    filters = np.zeros((6, 3, 11, 11), np.float32)
    filters[0, 0, 2, 5], filters[0, 1, 0, 0] = 0.02, -0.01
    filters[4, 2, 10, 10] = -3.0
    # Caffe's first channel is blue.
    assert some_weights.preprocessing.channel_order == "BGR"
    raw = render(with_tensor(some_weights, "conv1.weight", np.ascontiguousarray(filters[:, ::-1])))
    pixels = pixels_of(raw)
    assert pixels.shape == (2 * 12 - 1, 3 * 12 - 1, 4)
    wanted = np.full(pixels.shape, (128, 128, 128, 255))
    wanted[11], wanted[:, [11, 23]] = 0, 0
    wanted[2, 5] = (255, 128, 128, 255)
    wanted[0, 0, 1] = 64
    wanted[12 + 10, 12 + 10, 2] = 1
    assert pixels.tolist() == wanted.tolist()
    text = Page(raw).text
    assert "The 6 filters of conv1, 11 × 11 × RGB" in text
    assert "from 0 to 3" in text


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(96, 8, 12), (64, 8, 8), (48, 6, 8), (24, 4, 6), (1, 1, 1), (7, 2, 4), (97, 8, 13)]
)
def test_any_number_of_filters_makes_a_grid(count: int, rows: int, columns: int) -> None:
    grid, largest = filter_grid(np.random.default_rng(0).normal(size=(count, 3, 5, 5)))
    assert grid.shape == (rows * 6 - 1, columns * 6 - 1, 4)
    assert (grid[..., 3] > 0).sum() == 25 * count
    assert largest.shape == (count,)
