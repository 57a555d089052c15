from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.core.bundle.accuracy import Accuracy, Flip
from alexnet_deploy.core.inputs.labelled import LabelledFolder, LabelledImage
from alexnet_deploy.engines.proof.accuracy import measure_accuracy, paired_interval_points

LABELS = tuple("abcdefgh")


def folder(*labels: int) -> LabelledFolder:
    root = Path("given/val")
    images = tuple(
        LabelledImage(path=root / LABELS[label] / f"{number}.jpg", label=label) for number, label in enumerate(labels)
    )
    return LabelledFolder(root=root, images=images, sha256="0" * 64)


def guesses(*first: int, num_classes: int = 8) -> np.ndarray:
    """Return probabilities with these top-1 predictions, followed by the other classes in their order."""
    rows = np.tile(np.linspace(0.1, 0.01, num_classes), (len(first), 1))
    rows[np.arange(len(first)), first] = 0.9
    return rows.astype(np.float32)


def measured(truths: list[int], reference: list[int], candidate: list[int], max_drop_points: float = 0.5) -> Accuracy:
    return measure_accuracy(
        folder(*truths), LABELS, guesses(*reference), guesses(*candidate), max_drop_points=max_drop_points
    )


def test_both_are_counted_on_the_same_images() -> None:
    #                 both   lost   won    neither, differently   neither, alike
    found = measured([0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0], [0, 1, 0, 3, 1, 0])
    assert found.num_images == 6
    assert found.reference_top1 == pytest.approx(3 / 6)
    assert found.candidate_top1 == pytest.approx(3 / 6)
    assert found.drop_points == 0.0
    assert found.passed
    assert found.images_sha256 == "0" * 64


def test_every_changed_first_guess_is_named_and_no_other() -> None:
    found = measured([0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0], [0, 1, 0, 3, 1, 0])
    assert found.flips == (
        Flip(path="c/2.jpg", truth="c", reference="c", candidate="a"),
        Flip(path="d/3.jpg", truth="d", reference="a", candidate="d"),
        Flip(path="e/4.jpg", truth="e", reference="a", candidate="b"),
    )


def test_first_five_hold_the_right_one_or_do_not() -> None:
    # After the top-1 prediction come a, b, c, d: e is the sixth, unless it is the first.
    found = measured([3, 4, 7], [7, 7, 7], [0, 4, 0])
    assert found.reference_top5 == pytest.approx(2 / 3)
    assert found.candidate_top5 == pytest.approx(2 / 3)


@pytest.mark.parametrize(("num_lost", "max_drop_points", "passes"), [(1, 0.5, True), (1, 0.49, False), (0, 0.0, True)])
def test_drop_is_held_against_what_is_allowed(num_lost: int, max_drop_points: float, passes: bool) -> None:
    found = measured([0] * 200, [0] * 200, [1] * num_lost + [0] * (200 - num_lost), max_drop_points)
    assert found.drop_points == pytest.approx(0.5 * num_lost)
    assert found.max_drop_points == max_drop_points
    assert found.passed is passes


def test_gain_is_a_negative_drop() -> None:
    found = measured([0] * 10, [1] * 10, [0] * 10, 0.0)
    assert found.drop_points == -100.0
    assert found.interval_points[1] < 0
    assert found.passed


# Bonett and Price 2012: (x12 + 1) / (n + 2), (x21 + 1) / (n + 2), and a Wald interval of their difference.
@pytest.mark.parametrize(
    ("num_lost", "num_won", "num_images", "low", "high"),
    [
        # p = 1/102 both: 0 +- 1.959964 * sqrt((2/102 - 0) / 102) = 1.959964 * 0.0138648
        (0, 0, 100, -2.71746, 2.71746),
        # 11/102 and 2/102: 9/102 +- 1.959964 * sqrt((13/102 - (9/102)**2) / 102) = 0.0882353 +- 1.959964 * 0.0342519
        (10, 1, 100, 2.11028, 15.53677),
        # 6/1002 and 9/1002: -3/1002 +- 1.959964 * sqrt((15/1002 - (3/1002)**2) / 1002) = -0.002994 +- 0.0075733
        (5, 8, 1000, -1.05673, 0.45793),
        # 4/5 and 1/5: 3/5 +- 1.959964 * sqrt((1 - 9/25) / 5) = 0.6 +- 1.959964 * 0.3577709
        (3, 0, 3, -10.12181, 130.12181),
    ],
)
def test_interval_is_the_one_computed_by_hand(
    num_lost: int, num_won: int, num_images: int, low: float, high: float
) -> None:
    assert paired_interval_points(num_lost, num_won, num_images) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_interval_mirrors_and_holds_the_difference_drawn_in(num_lost: int, num_won: int, num_alike: int) -> None:
    num_images = num_lost + num_won + num_alike + 1
    low, high = paired_interval_points(num_lost, num_won, num_images)
    assert low < 100 * (num_lost - num_won) / (num_images + 2) < high
    assert paired_interval_points(num_won, num_lost, num_images) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.01), (0.01, 0.01), (0.1, 0.02), (0.004, 0.0)])
def test_interval_covers_the_truth_19_times_in_20(lost: float, won: float) -> None:
    """4,000 simulated measurements on 1,000 images; the standard deviation of such a share is 0.35 points."""
    rng = np.random.default_rng(7)
    draws = rng.multinomial(1000, [lost, won, 1 - lost - won], size=4000)
    intervals = np.array([paired_interval_points(int(first), int(second), 1000) for first, second, _ in draws])
    truth = 100 * (lost - won)
    covered = ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean()
    assert 0.935 <= covered <= 0.99
