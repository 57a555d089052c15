"""Evaluation of trained weights on their validation images, compared with the simplest computation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import narrowed, separating_weights, with_tensor
from training import InMemory, fed

from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import network_from
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.train.loop.evaluation import Evaluation, evaluate, spread_numbers


def plain_probabilities(weights: Weights, image: np.ndarray) -> np.ndarray:
    """Softmax of each of the ten views of one image, float64 (10, K); the centre view is the fifth."""
    size = weights.architecture.input_size
    far, middle = 256 - size, (256 - size) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    crops = [image[top : top + size, left : left + size] for top, left in corners]
    crops += [crop[:, ::-1] for crop in crops]
    preprocessing = weights.preprocessing
    fed = (np.array(crops, np.float32) - np.float32(preprocessing.mean)) * np.float32(preprocessing.scale)
    if preprocessing.channel_order == "BGR":
        fed = fed[..., ::-1]
    with torch.inference_mode():
        views = torch.from_numpy(np.ascontiguousarray(fed.transpose(0, 3, 1, 2)))
        logits = network_from(weights.architecture, weights.tensors)(views).double().numpy()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def evaluated(
    weights: Weights, images: np.ndarray, truths: np.ndarray, numbers: np.ndarray | None = None
) -> Evaluation:
    batches = InMemory(torch.from_numpy(images), torch.from_numpy(truths))
    return evaluate(weights, batches, np.arange(len(images)) if numbers is None else numbers)


@pytest.mark.parametrize(("name", "num_classes"), [("paper", 2), ("original", 4), ("caffe", 10)])
def test_both_ways_of_asking_are_those_of_a_plain_computation(name: str, num_classes: int) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES[name], divisor=16, num_classes=num_classes))
    images, truths = golden_images()[:3], np.array([1, 0, num_classes - 1])
    found = evaluated(weights, images, truths)
    of_views = np.array([plain_probabilities(weights, image) for image in images])
    for said, wanted in ((found.center, of_views[:, 4]), (found.ten, of_views.mean(axis=1))):
        order = np.argsort(-wanted, axis=1, kind="stable")[:, :5]
        assert said.predictions.tolist() == order.tolist()
        assert said.probabilities == pytest.approx(np.take_along_axis(wanted, order, axis=1), abs=2e-5)
        assert said.losses == pytest.approx(-np.log(wanted[range(3), truths]), abs=2e-4)
    assert np.abs(of_views[:, 4] - of_views.mean(axis=1)).max() > 0.01, "else one could stand for the other"
    assert found.truths.tolist() == truths.tolist()


def test_each_view_of_each_image_asked_for_is_seen_once(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fed(monkeypatch)
    images = np.random.default_rng(0).integers(0, 256, (34, 256, 256, 3), dtype=np.uint8)
    truths = np.arange(34) % 4
    numbers = np.array([33, *range(32)])
    told: list[tuple[int, int]] = []
    batches = InMemory(torch.from_numpy(images), torch.from_numpy(truths))
    found = evaluate(weights, batches, numbers, on_progress=lambda *done: told.append(done))
    views = [view for batch in seen["validation"] for view in batch]
    assert seen["train"] == []
    assert len(views) == len({hash(view.tobytes()) for view in views}) == 10 * 33
    assert found.numbers.tolist() == numbers.tolist()
    assert found.truths.tolist() == truths[numbers].tolist()
    assert told[-1] == (33, 33)
    assert len(told) > 1
    one = evaluated(weights, images, truths, np.array([17]))
    (place,) = np.flatnonzero(numbers == 17)
    assert found.ten.losses[place] == pytest.approx(one.ten.losses[0], abs=1e-5)


def test_a_certain_mistake_costs_much_and_not_infinitely_much(weights: Weights) -> None:
    sure = with_tensor(weights, "fc8.bias", np.array([2000, 0, 0, 0], np.float32))
    found = evaluated(sure, golden_images()[:1], np.array([1]))
    assert found.ten.probabilities[0].tolist() == [1, 0, 0, 0]
    assert found.center.losses == pytest.approx([2000], rel=0.01)
    assert found.ten.losses == pytest.approx([2000], rel=0.01)


def test_equal_guesses_stand_in_the_order_of_their_classes() -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["paper"], divisor=16, num_classes=9))
    zeros = {name: 0 * weights.tensors[name] for name in ("fc8.weight", "fc8.bias")}
    found = evaluated(replace(weights, tensors={**weights.tensors, **zeros}), golden_images()[:2], np.array([3, 8]))
    assert found.ten.predictions.tolist() == found.center.predictions.tolist() == 2 * [[0, 1, 2, 3, 4]]
    assert found.ten.losses == pytest.approx(np.log(9))


@given(num_images=st.integers(1, 5000), most=st.integers(1, 3000))
def test_the_images_that_are_asked_are_spread_evenly(num_images: int, most: int) -> None:
    numbers = spread_numbers(num_images, most)
    assert len(numbers) == min(num_images, most)
    # Including the distance from the last number around to the first.
    distances = np.diff([*numbers, num_images + numbers[0]])
    assert distances.min() >= 1
    assert distances.max() - distances.min() <= 1
    assert numbers[0] >= 0
    assert numbers[-1] < num_images


def test_two_thousand_are_asked_at_most() -> None:
    assert spread_numbers(2000).tolist() == list(range(2000))
    assert spread_numbers(50_000)[:3].tolist() == [12, 37, 62]
    assert len(spread_numbers(50_000)) == 2000
