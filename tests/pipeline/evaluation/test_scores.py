"""Scores, each against a referee: scipy's Wilson interval, a bootstrap, torchmetrics' calibration error."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torchmetrics.classification import MulticlassCalibrationError

from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.pipeline.evaluation.scores import Answers, score_of


def answers_of(probabilities: np.ndarray, unreadable: tuple[int, ...] = ()) -> Answers:
    guesses = np.argsort(-probabilities, axis=1, kind="stable")[:, :5].astype(np.int32)
    kept = np.take_along_axis(probabilities, guesses, axis=1).astype(np.float32)
    for number in unreadable:
        guesses[number], kept[number] = -1, np.nan
    return Answers(
        guesses=guesses,
        probabilities=kept,
        errors=dict.fromkeys(unreadable, (ImageErrorCode.TRUNCATED, "cut off")),
    )


def random_case(seed: int, num_images: int = 400, num_classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.0, (num_images, num_classes))
    truths = rng.integers(0, num_classes, num_images).astype(np.int32)
    logits[np.arange(num_images), truths] += 1.5
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32), truths


@given(st.integers(0, 2**32 - 1))
def test_the_calibration_error_is_torchmetrics(seed: int) -> None:
    probabilities, truths = random_case(seed)
    referee = MulticlassCalibrationError(num_classes=8, n_bins=15, norm="l1")
    expected = referee(torch.from_numpy(probabilities), torch.from_numpy(truths).long())
    answers = answers_of(probabilities)
    assert score_of(answers, truths, answers, truths).ece == pytest.approx(float(expected), abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_accuracy_and_its_interval_are_scipys(seed: int, num_images: int) -> None:
    probabilities, truths = random_case(seed, num_images)
    answers = answers_of(probabilities)
    found = score_of(answers, truths, answers, truths)
    num_right = int((probabilities.argmax(axis=1) == truths).sum())
    interval = binomtest(num_right, num_images).proportion_ci(method="wilson")
    assert found.top1 == num_right / num_images
    assert found.top1_interval == pytest.approx((interval.low, interval.high), abs=1e-6)
    ranks = (probabilities > probabilities[np.arange(num_images), truths][:, None]).sum(axis=1)
    assert found.top5 == (ranks < 5).mean()
    assert (found.top1_err, found.top5_err) == (1 - found.top1, 1 - found.top5)


def test_the_paired_interval_agrees_with_a_bootstrap() -> None:
    probabilities, truths = random_case(3, num_images=1000)
    rng = np.random.default_rng(4)
    other = probabilities + rng.normal(0, 0.15, probabilities.shape).astype(np.float32)
    one, two = answers_of(probabilities), answers_of(other)
    found = score_of(two, truths, one, truths)
    gains = two.hits(truths).astype(float) - one.hits(truths).astype(float)
    means = 100 * gains[rng.integers(0, 1000, (4000, 1000))].mean(axis=1)
    assert found.difference_points == pytest.approx(100 * gains.mean())
    # Both are estimates: on 1,000 images their ends are within a fifth of the width of each other.
    width = found.difference_interval_points[1] - found.difference_interval_points[0]
    assert found.difference_interval_points == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=width / 5)


def test_unreadable_images_enter_no_score_and_no_pair() -> None:
    probabilities, truths = random_case(5)
    whole, cut = answers_of(probabilities), answers_of(probabilities, unreadable=(0, 7))
    found = score_of(cut, truths, whole, truths)
    assert (found.num_images, found.num_unreadable) == (398, 2)
    rest = np.delete(np.arange(400), [0, 7])
    alone = answers_of(probabilities[rest])
    same = score_of(alone, truths[rest], alone, truths[rest])
    assert (found.top1, found.ece, found.difference_points) == (same.top1, same.ece, 0.0)


def test_the_difference_pairs_images_not_class_numbers() -> None:
    probabilities, truths = random_case(6)
    order = np.random.default_rng(7).permutation(8)
    one, two = answers_of(probabilities), answers_of(probabilities[:, order])
    renumbered = np.argsort(order)[truths].astype(np.int32)
    assert score_of(two, renumbered, one, truths).difference_points == 0.0


def test_each_threshold_counts_what_it_accepts() -> None:
    probabilities, truths = random_case(8)
    answers = answers_of(probabilities)
    confidences, hits = probabilities.max(axis=1), answers.hits(truths)
    for point in score_of(answers, truths, answers, truths).coverage:
        accepted = confidences >= point.threshold
        assert point.coverage == pytest.approx(accepted.mean())
        assert point.accuracy == pytest.approx(hits[accepted].mean())
