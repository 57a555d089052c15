"""What a recipe's fields do to a step."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional
from training import NARROW, RECIPE, are_equal, memory_set, network_in

from alexnet_deploy.core.network import Network, tensors_of
from alexnet_deploy.train import learner
from alexnet_deploy.train.initialise import initialise
from alexnet_deploy.train.learner import Learner
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.record import training_preprocessing
from alexnet_deploy.train.run import train_on_set

DATA = memory_set()
TWO = NARROW.with_num_classes(2)
CPU = torch.device("cpu")
PLAIN = msgspec.structs.replace(RECIPE, color_noise=0.0, weight_decay=0.0, momentum=0.0)


def learner_of(recipe: Recipe) -> Learner:
    preprocessing = training_preprocessing("paper", recipe, DATA.mean, DATA.covariance)
    return Learner(TWO, recipe, preprocessing, DATA.covariance, CPU)


def a_step(recipe: Recipe, epoch: int = 1, rate: float = 0.01) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a step, and how far it moved each tensor."""
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


def test_colour_noise_ends_after_its_epochs() -> None:
    noisy = msgspec.structs.replace(PLAIN, color_noise=0.5)
    until = msgspec.structs.replace(noisy, epochs=9, color_noise_epochs=3)
    for epoch, other in ((1, noisy), (3, noisy), (4, PLAIN), (9, PLAIN)):
        _, moved = a_step(until, epoch)
        _, expected = a_step(other, epoch)
        np.testing.assert_array_equal(moved["fc8.weight"], expected["fc8.weight"])
    assert not np.array_equal(a_step(noisy, 4)[1]["fc8.weight"], a_step(PLAIN, 4)[1]["fc8.weight"])


def test_crops_are_scaled_where_the_recipe_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    scaled = learner.scaled_crop_and_mirror

    def noted(images: torch.Tensor, size: int, min_area: float, draws: torch.Generator) -> torch.Tensor:
        seen.append(min_area)
        return scaled(images, size, min_area, draws)

    monkeypatch.setattr(learner, "scaled_crop_and_mirror", noted)
    plain, scaled_loss = a_step(PLAIN)[0], a_step(msgspec.structs.replace(PLAIN, min_crop_area=0.3))[0]
    assert seen == [0.3]
    assert plain != scaled_loss


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
    # bfloat16 carries 2^-8 of a number; further down, where roundings move maxima, gradients differ more.
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
    on_cuda = Learner(TWO, recipe, preprocessing, DATA.covariance, torch.device("cuda"))
    assert len(compiled) == 1
    assert on_cuda.weights().keys() == TWO.tensor_shapes().keys()
    Learner(TWO, PLAIN, preprocessing, DATA.covariance, torch.device("cuda"))
    assert len(compiled) == 1


def test_a_step_draws_dropout_from_its_own_place(tmp_path: Path) -> None:
    # Whatever has been drawn before, here by another run with another seed.
    one, again = tmp_path / "one", tmp_path / "again"
    train_on_set(DATA, NARROW, PLAIN, one)
    torch.rand(1000)
    train_on_set(DATA, NARROW, PLAIN, again)
    assert are_equal(network_in(one), network_in(again))
    assert a_step(PLAIN, epoch=1)[0] != a_step(PLAIN, epoch=2)[0]


def test_what_does_not_fit_is_not_taken() -> None:
    learning = learner_of(RECIPE)
    first = Network(TWO)
    initialise(first, "kaiming", RECIPE.seed)
    weights = {name: torch.from_numpy(values) for name, values in tensors_of(first).items()}
    learning.take(weights, {})
    assert learning.momenta() == {}
    learning.take(weights, weights)
    assert learning.momenta().keys() == weights.keys()
    for wrong in ({"conv1.bias": weights["conv1.bias"]}, weights | {"conv1.bias": torch.zeros(3)}):
        with pytest.raises(RuntimeError, match="the momentum of conv"):
            learning.take(weights, wrong)
        with pytest.raises(RuntimeError, match="conv1"):
            learning.take(wrong, {})
