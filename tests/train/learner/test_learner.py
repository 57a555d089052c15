"""The effect of recipe fields on a step."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional
from training import NARROW, RECIPE, are_equal, memory_set, network_in

from alexnet_deploy.core.model.network import Network
from alexnet_deploy.train.learner import learner
from alexnet_deploy.train.learner.augment import CropRange
from alexnet_deploy.train.learner.learner import Learner, balanced_weights
from alexnet_deploy.train.loop.record import training_preprocessing
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.run import train
from alexnet_deploy.train.runtime.placement import placed

DATA = memory_set()
TWO = NARROW.with_num_classes(2)
CPU = torch.device("cpu")
PLAIN = msgspec.structs.replace(RECIPE, color_noise=0.0, weight_decay=0.0, momentum=0.0)


def learner_of(recipe: Recipe) -> Learner:
    preprocessing = training_preprocessing("paper", recipe, DATA.mean, DATA.covariance)
    return Learner(TWO, recipe, preprocessing, DATA.covariance)


def a_step(recipe: Recipe, epoch: int = 1, rate: float = 0.01) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a step, and its change of each tensor."""
    learning = learner_of(recipe)
    before = {name: tensor.numpy().copy() for name, tensor in learning.weights().items()}
    ((images, labels),) = DATA.train.batches([torch.arange(6)])
    loss = learning.step(images, labels, epoch=epoch, step=0, rate=rate)
    return loss.item(), {name: tensor.numpy() - before[name] for name, tensor in learning.weights().items()}


def test_biases_have_a_rate_of_their_own_that_no_schedule_changes() -> None:
    for rate in (0.01, 0.001):
        _, moved = a_step(PLAIN, rate=rate)
        _, own = a_step(msgspec.structs.replace(PLAIN, bias_learning_rate=0.02), rate=rate)
        for name, tensor in moved.items():
            factor = 0.02 / rate if name.endswith(".bias") else 1.0
            np.testing.assert_allclose(own[name], factor * tensor, rtol=1e-3, atol=1e-8)


def test_a_steps_rate_is_the_one_it_is_given() -> None:
    _, moved = a_step(PLAIN, rate=0.01)
    _, further = a_step(PLAIN, rate=0.02)
    np.testing.assert_allclose(further["fc8.weight"], 2 * moved["fc8.weight"], rtol=1e-3, atol=1e-8)


def test_label_smoothing_is_in_the_loss_that_is_minimised(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    cross_entropy = functional.cross_entropy

    def noted(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        seen.append((logits.detach(), labels))
        return cross_entropy(logits, labels, label_smoothing=label_smoothing)

    monkeypatch.setattr(learner.functional, "cross_entropy", noted)
    loss, _ = a_step(msgspec.structs.replace(PLAIN, label_smoothing=0.2))
    ((logits, labels),) = seen
    shares = logits.double().log_softmax(dim=1).numpy()
    truth = np.eye(2)[labels.numpy()] * 0.8 + 0.1
    assert loss == pytest.approx(-(truth * shares).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balanced_weights_make_each_class_count_the_same(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    cross_entropy = functional.cross_entropy

    def noted(logits: torch.Tensor, labels: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append((logits.detach(), labels))
        return cross_entropy(logits, labels, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(learner.functional, "cross_entropy", noted)
    plan = msgspec.structs.replace(PLAIN, class_weights="balanced", label_smoothing=smoothing)
    preprocessing = training_preprocessing("paper", plan, DATA.mean, DATA.covariance)
    learning = Learner(TWO, plan, preprocessing, DATA.covariance, class_counts=(30, 10))
    # Four of the first class, one of the second.
    ((images, labels),) = DATA.train.batches([torch.tensor([0, 2, 4, 6, 1])])
    loss = learning.step(images, labels, epoch=1, step=0, rate=0.01).item()
    ((logits, labels),) = seen
    truth = np.eye(2)[labels.numpy()] * (1 - smoothing) + smoothing / 2
    losses = -(truth * logits.double().log_softmax(dim=1).numpy()).sum(axis=1)
    # 40 images, 2 classes: 40 / (2 * 30) and 40 / (2 * 10).
    weights = np.array([2 / 3, 2.0])[labels.numpy()]
    assert loss == pytest.approx((weights * losses).mean(), rel=1e-5)
    assert loss != pytest.approx(losses.mean(), rel=1e-3)


@pytest.mark.parametrize("counts", [(1, 1), (3, 1), (7, 1, 92), (1000, 1)])
def test_balanced_weights_are_1_on_average_over_the_images(counts: tuple[int, ...]) -> None:
    totals = balanced_weights(counts) * counts
    np.testing.assert_allclose(totals, sum(counts) / len(counts), rtol=1e-12)


def test_classes_of_equal_size_train_as_without_weights() -> None:
    preprocessing = training_preprocessing("paper", PLAIN, DATA.mean, DATA.covariance)
    balanced = msgspec.structs.replace(PLAIN, class_weights="balanced")
    ((images, labels),) = DATA.train.batches([torch.arange(6)])
    losses = [
        Learner(TWO, plan, preprocessing, DATA.covariance, class_counts=(6, 6))
        .step(images, labels, epoch=1, step=0, rate=0.01)
        .item()
        for plan in (PLAIN, balanced)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_run_weights_its_classes_by_its_own_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def noted(counts: tuple[int, ...]) -> np.ndarray:
        asked.append(counts)
        return balanced_weights(counts)

    monkeypatch.setattr(learner, "balanced_weights", noted)
    plan = msgspec.structs.replace(PLAIN, class_weights="balanced", epochs=1, batch_size=5)
    train(memory_set(num_train=5), NARROW, plan, tmp_path / "run")
    assert asked == [(3, 2)]


def test_colour_noise_ends_after_its_epochs() -> None:
    noisy = msgspec.structs.replace(PLAIN, color_noise=0.5)
    until = msgspec.structs.replace(noisy, epochs=9, color_noise_epochs=3)
    for epoch, other in ((1, noisy), (3, noisy), (4, PLAIN), (9, PLAIN)):
        _, moved = a_step(until, epoch)
        _, expected = a_step(other, epoch)
        np.testing.assert_array_equal(moved["fc8.weight"], expected["fc8.weight"])
    assert not np.array_equal(a_step(noisy, 4)[1]["fc8.weight"], a_step(PLAIN, 4)[1]["fc8.weight"])


@pytest.mark.parametrize(
    ("change", "name", "wanted"),
    [
        ({"min_scale": 0.3}, "scaled_crop_and_mirror", CropRange(min_area=0.3)),
        ({"max_ratio": 1.5}, "scaled_crop_and_mirror", CropRange(min_area=1.0, max_aspect=1.5)),
        ({"max_rotation": 9.0}, "scaled_crop_and_mirror", CropRange(min_area=1.0, max_rotation=9.0)),
        ({"color_jitter": 0.2}, "jitter_colors", 0.2),
        ({"random_erasing": 0.9}, "erase", 0.9),
    ],
)
def test_images_are_augmented_as_the_recipe_has_it(
    change: dict[str, float], name: str, wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    augmented = getattr(learner, name)

    def noted(*arguments: object) -> torch.Tensor:
        seen.extend(argument for argument in arguments if isinstance(argument, CropRange | float))
        result: torch.Tensor = augmented(*arguments)
        return result

    monkeypatch.setattr(learner, name, noted)
    plain = a_step(PLAIN)[0]
    assert seen == []
    changed = a_step(msgspec.structs.replace(PLAIN, **change))[0]
    assert seen == [wanted]
    assert plain != changed


def test_adamw_is_adam_with_a_decay_apart_from_the_gradient() -> None:
    # In double precision, by the paper's algorithm 2, with gradients from a step of plain SGD.
    recipe = msgspec.structs.replace(PLAIN, optimiser="adamw", momentum=0.8, weight_decay=0.3)
    learning = learner_of(recipe)
    first, second, tensors = {}, {}, {name: value.double() for name, value in learning.weights().items()}
    ((images, labels),) = DATA.train.batches([torch.arange(6)])
    for step in range(3):
        plain = learner_of(PLAIN)
        plain.load_state_dict(
            {name: value for name, value in learning.state_dict().items() if name.startswith("network.")}
        )
        before = {name: value.double() for name, value in plain.weights().items()}
        plain.step(images, labels, epoch=1, step=step, rate=1.0)
        for name, value in plain.weights().items():
            gradient = before[name] - value.double()
            first[name] = 0.8 * first.get(name, 0.0) + 0.2 * gradient
            second[name] = 0.999 * second.get(name, 0.0) + 0.001 * gradient.square()
            scaled = (first[name] / (1 - 0.8 ** (step + 1))) / (
                (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            )
            decay = 0.3 * tensors[name] if name.endswith(".weight") else 0.0
            tensors[name] = tensors[name] - 0.001 * (scaled + decay)
        learning.step(images, labels, epoch=1, step=step, rate=0.001)
    for name, value in learning.weights().items():
        # For a tiny gradient, rounding in `before - value` decides the sign of the step.
        wrong = (value.double() - tensors[name]).abs() > 1e-5
        assert wrong.double().mean() < 0.02, name


def test_the_running_mean_of_the_weights_is_what_training_results_in() -> None:
    recipe = msgspec.structs.replace(PLAIN, ema_decay=0.7)
    averaged, plain = learner_of(recipe), learner_of(PLAIN)
    mean = {name: value.double() for name, value in plain.weights().items()}
    ((images, labels),) = DATA.train.batches([torch.arange(6)])
    for epoch in (1, 2):
        for step in range(2):
            decay = 0.2 * epoch + 0.1 * step
            for learning in (averaged, plain):
                learning.step(images, labels, epoch=epoch, step=step, rate=0.01, mean_decay=decay)
            for name, value in plain.weights().items():
                mean[name] = decay * mean[name] + (1 - decay) * value.double()
    latest = {name: value for name, value in averaged.state_dict().items() if name.startswith("network.")}
    for name, value in plain.weights().items():
        # The average does not affect training.
        assert torch.equal(latest[f"network.{name}"], value)
        torch.testing.assert_close(averaged.weights()[name].double(), mean[name], rtol=1e-5, atol=1e-7)
        assert not torch.equal(averaged.weights()[name], value)
    views = torch.randn((2, 3, 227, 227), generator=torch.Generator().manual_seed(1))
    by_mean = Network(TWO)
    by_mean.load_state_dict(averaged.weights())
    with torch.no_grad():
        torch.testing.assert_close(averaged.logits(views), by_mean.eval()(views), rtol=1e-4, atol=1e-5)


def test_bf16_multiplies_in_bfloat16_and_keeps_float32_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []
    forward = torch.nn.Linear.forward

    def noted(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        result = forward(layer, x)
        kinds.append(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.Linear, "forward", noted)
    exact, moved = a_step(PLAIN)
    assert set(kinds) == {torch.float32}
    kinds.clear()
    rounded, half_moved = a_step(msgspec.structs.replace(PLAIN, precision="bf16"))
    assert set(kinds) == {torch.bfloat16}
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)
    assert {tensor.dtype for tensor in half_moved.values()} == {np.dtype(np.float32)}
    # bfloat16 has a relative precision of 2^-8; in lower layers, where rounding moves maxima, gradients differ more.
    last, half_last = moved["fc8.weight"], half_moved["fc8.weight"]
    assert np.linalg.norm(half_last - last) < 0.1 * np.linalg.norm(last)
    learning = learner_of(msgspec.structs.replace(PLAIN, precision="bf16"))
    kinds.clear()
    assert learning.logits(torch.zeros((1, 3, 227, 227))).dtype == torch.float32
    assert set(kinds) == {torch.bfloat16}


def test_the_network_is_compiled_on_cuda_alone_and_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Network] = []

    def noted(network: Network) -> Network:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", noted)
    recipe = msgspec.structs.replace(PLAIN, compile=True)
    learner_of(recipe)
    assert compiled == []
    monkeypatch.setattr(Network, "to", lambda network, *_, **__: network)
    preprocessing = training_preprocessing("paper", recipe, DATA.mean, DATA.covariance)
    on_cuda = Learner(TWO, recipe, preprocessing, DATA.covariance, placed("cuda"))
    assert len(compiled) == 1
    assert on_cuda.weights().keys() == TWO.tensor_shapes().keys()
    Learner(TWO, PLAIN, preprocessing, DATA.covariance, placed("cuda"))
    assert len(compiled) == 1


def test_a_step_draws_dropout_from_its_own_place(tmp_path: Path) -> None:
    # Independent of earlier draws, here by another run with another seed.
    one, again = tmp_path / "one", tmp_path / "again"
    train(DATA, NARROW, PLAIN, one)
    torch.rand(1000)
    train(DATA, NARROW, PLAIN, again)
    assert are_equal(network_in(one), network_in(again))
    assert a_step(PLAIN, epoch=1)[0] != a_step(PLAIN, epoch=2)[0]


ADAMW = msgspec.structs.replace(PLAIN, optimiser="adamw", ema_decay=0.9, momentum=0.9)


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        (PLAIN, {"network"}),
        (RECIPE, {"network", "momentum_buffer"}),
        (ADAMW, {"network", "exp_avg", "exp_avg_sq", "step", "mean"}),
    ],
)
def test_a_learner_that_takes_the_state_of_another_goes_on_as_it_would(recipe: Recipe, kept: set[str]) -> None:
    one, other = learner_of(recipe), learner_of(recipe)
    ((images, labels),) = DATA.train.batches([torch.arange(6)])
    for step in range(2):
        one.step(images, labels, epoch=1, step=step, rate=0.01, mean_decay=0.5)
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in one.state_dict().items()}
    assert {name.partition(".")[0] for name in state} == kept
    other.load_state_dict(state)
    losses = [
        learning.step(images, labels, epoch=1, step=2, rate=0.01, mean_decay=0.5).item() for learning in (one, other)
    ]
    assert losses[0] == losses[1]
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    # Copies: the saved tensors do not change with the network.
    assert not torch.equal(state["network.fc8.weight"], other.state_dict()["network.fc8.weight"])


def test_what_does_not_fit_is_not_taken() -> None:
    trained = learner_of(ADAMW)
    ((images, labels),) = DATA.train.batches([torch.arange(6)])
    trained.step(images, labels, epoch=1, step=0, rate=0.01)
    state = trained.state_dict()
    learning = learner_of(ADAMW)
    for wrong in ({}, state | {"network.conv1.bias": torch.zeros(3)}, state | {"network.conv9.bias": torch.zeros(3)}):
        with pytest.raises(RuntimeError, match=r"conv[19]"):
            learning.load_state_dict(wrong)
    with pytest.raises(RuntimeError, match="fc8"):
        learning.load_state_dict({name: tensor for name, tensor in state.items() if name != "mean.fc8.weight"})
    missing = {name: tensor for name, tensor in state.items() if name != "exp_avg.conv1.bias"}
    for wrong in (missing, state | {"exp_avg.conv1.bias": torch.zeros(3)}):
        with pytest.raises(RuntimeError, match=r"^exp_avg of conv1\.bias is missing or has the wrong shape$"):
            learning.load_state_dict(wrong)
