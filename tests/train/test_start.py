"""Fine-tuning: which layers are loaded, new and frozen, and what stays bit-identical."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from networks import narrowed, separating_weights
from training import ALWAYS, NARROW, RECIPE, at_step, memory_set, network_in, record_of

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import LoadedWeights, Weights, load_weights
from alexnet_deploy.train.learner.learner import Learner
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, load_checkpoint
from alexnet_deploy.train.loop.record import NOBODY, Observer
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.run import Resume, train
from alexnet_deploy.train.runtime.placement import HERE, Placement, placed
from alexnet_deploy.train.start import Start, layers_in, start_from

DATA = memory_set()
TWO = NARROW.with_num_classes(2)
FROZEN = ("conv1", "conv2", "fc6")
HARD = msgspec.structs.replace(
    RECIPE, epochs=2, batch_size=4, learning_rate=0.01, optimiser="adamw", weight_decay=0.5, ema_decay=0.5
)
"""Everything that could move a frozen tensor: weight decay, moments, a moving average."""


@pytest.fixture(scope="module")
def loaded() -> LoadedWeights:
    weights = separating_weights(NARROW)
    return LoadedWeights(weights=weights, path=Path("base.safetensors"), sha256="a" * 64)


def labelled(loaded: LoadedWeights, *labels: str) -> LoadedWeights:
    """Return the weights with a last layer for these classes."""
    weights = loaded.weights
    tensors = {**weights.tensors}
    for name in ("fc8.weight", "fc8.bias"):
        tensors[name] = tensors[name][: len(labels)]
    table = weights.architecture.with_num_classes(len(labels))
    return replace(loaded, weights=replace(weights, architecture=table, tensors=tensors, labels=labels))


def start(loaded: LoadedWeights, frozen: tuple[str, ...] = FROZEN) -> Start:
    return start_from(loaded, DATA.class_names, frozen)


def fine_tuned(
    begin: Start, out: Path, recipe: Recipe = HARD, *, placement: Placement = HERE, resume: Resume = Resume.NO
) -> Weights:
    path = train(DATA, begin, recipe, out, placement=placement, resume=resume, pace=ALWAYS)
    return load_weights(path).weights


def bits(weights: Weights, name: str) -> bytes:
    return np.ascontiguousarray(weights.tensors[name]).tobytes()


# Layers by name


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("conv1..conv3", ("conv1", "conv2", "conv3")),
        ("conv1", ("conv1",)),
        ("fc6, conv2,conv1..conv2", ("conv1", "conv2", "fc6")),
        ("conv5..fc7", ("conv5", "fc6", "fc7")),
    ],
)
def test_layers_are_named_by_ranges_and_lists(text: str, layers: tuple[str, ...]) -> None:
    assert layers_in(text, NARROW) == layers


@pytest.mark.parametrize("text", ["pool1", "conv1..conv9", "conv1..", "", "conv1,,conv2", "conv1..conv2..conv3"])
def test_a_name_that_is_no_layer_with_parameters_is_refused_with_the_names(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a layer with parameters of .*; its layers are conv1, .*, fc8$"):
        layers_in(text, NARROW)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(UsageError, match=r"conv5 comes after conv1; write conv1\.\.conv5$"):
        layers_in("conv5..conv1", NARROW)


# The last layer


def test_the_last_layer_is_new_where_the_classes_differ(loaded: LoadedWeights) -> None:
    begin = start(loaded)
    assert begin.basis.record.new_layers == ("fc8",)
    assert begin.architecture == TWO
    assert begin.tensors.keys() == loaded.weights.tensors.keys() - {"fc8.weight", "fc8.bias"}


def test_the_last_layer_is_kept_in_the_order_of_the_images_classes(loaded: LoadedWeights) -> None:
    same = labelled(loaded, "blue", "red")
    begin = start(same)
    assert begin.basis.record.new_layers == ()
    # DATA has red first.
    for name in ("fc8.weight", "fc8.bias"):
        np.testing.assert_array_equal(begin.tensors[name], same.weights.tensors[name][[1, 0]])


def test_a_new_layer_cannot_be_frozen_and_a_kept_one_can(loaded: LoadedWeights) -> None:
    with pytest.raises(UsageError, match=r"fc8 cannot be frozen: it is new, .*base\.safetensors; remove fc8"):
        start(loaded, ("fc8",))
    assert start(labelled(loaded, "red", "blue"), ("fc8",)).basis.record.frozen == ("fc8",)


def test_a_mean_image_is_refused_with_what_to_do(loaded: LoadedWeights) -> None:
    weights = loaded.weights
    means = msgspec.structs.replace(weights.preprocessing, has_mean_image=True)
    pictured = replace(weights, preprocessing=means, mean_image=np.zeros((3, 256, 256), np.float32))
    with pytest.raises(UsageError, match=r"these weights have a mean image, .+ again with --mean-image channels$"):
        start_from(replace(loaded, weights=pictured), weights.labels, ())


def test_something_must_be_left_to_train(loaded: LoadedWeights) -> None:
    with pytest.raises(UsageError, match="no layer is left to train"):
        start(labelled(loaded, "red", "blue"), layers_in("conv1..fc8", NARROW))


# Training


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_frozen_tensors_keep_every_bit_and_others_do_not(optimiser: str, loaded: LoadedWeights, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(HARD, optimiser=optimiser)
    tuned = fine_tuned(start(loaded), tmp_path / "run", recipe)
    for weights in (tuned, network_in(tmp_path / "run")):
        for name in set(weights.tensors) - {"fc8.weight", "fc8.bias"}:
            is_frozen = name.split(".")[0] in FROZEN
            assert (bits(weights, name) == bits(loaded.weights, name)) is is_frozen, name


def test_a_moving_average_keeps_the_sign_of_a_frozen_zero(loaded: LoadedWeights) -> None:
    weights = loaded.weights
    zeros = np.full_like(weights.tensors["conv1.bias"], -0.0)
    begin = start(replace(loaded, weights=replace(weights, tensors={**weights.tensors, "conv1.bias": zeros})))
    learner = Learner(TWO, HARD, begin.basis.preprocessing, DATA.covariance, start=begin)
    images, targets = next(iter(DATA.train.batches([torch.arange(4)])))
    learner.step(images, targets, epoch=1, step=0, rate=0.01, mean_decay=0.99)
    # The average -0.0 + 0.01 * (-0.0 - -0.0) would be 0.0.
    assert learner.weights()["conv1.bias"].numpy().tobytes() == zeros.tobytes()


def test_the_record_and_the_preprocessing_are_of_the_file(loaded: LoadedWeights, tmp_path: Path) -> None:
    tuned = fine_tuned(start(loaded), tmp_path / "run")
    assert tuned.preprocessing == loaded.weights.preprocessing
    record = record_of(tuned).start
    assert record is not None
    assert (record.file, record.sha256, record.frozen, record.new_layers) == (
        "base.safetensors",
        "a" * 64,
        FROZEN,
        ("fc8",),
    )
    again = start(LoadedWeights(weights=tuned, path=Path("b"), sha256="b" * 64)).basis.record
    assert (again.start, again.new_layers) == (record, ())


def test_loaded_layers_can_have_a_lower_rate_than_new_ones(loaded: LoadedWeights) -> None:
    recipe = msgspec.structs.replace(RECIPE, pretrained_rate=0.25, momentum=0.0, weight_decay=0.0)
    moved = {}
    for rate in (1.0, 0.25):
        own = msgspec.structs.replace(recipe, pretrained_rate=rate)
        begin = start(loaded, ("conv2",))
        learner = Learner(TWO, own, begin.basis.preprocessing, DATA.covariance, start=begin)
        before = {name: tensor.double().clone() for name, tensor in learner.weights().items()}
        images, targets = next(DATA.train.batches([torch.arange(4)]))
        learner.step(images, targets, epoch=1, step=0, rate=0.01)
        moved[rate] = {name: tensor.double() - before[name] for name, tensor in learner.weights().items()}
    for name in moved[1.0]:
        wanted = moved[1.0][name] * (1.0 if name.startswith("fc8") else 0.25)
        # A step is rounded to the float32 of the weight that it moves.
        torch.testing.assert_close(moved[0.25][name], wanted, rtol=1e-3, atol=3e-7)
    assert float(moved[1.0]["fc7.weight"].abs().max()) > 1e-5


# Resuming


class Killed(BaseException):
    """Like SIGKILL: nothing handles it."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("with_file", [True, False], ids=["with the file", "without it"])
@pytest.mark.parametrize("step", [2, 5])
def test_a_killed_run_resumes_to_the_same_bits(
    step: int, with_file: bool, loaded: LoadedWeights, tmp_path: Path
) -> None:
    begin = start(loaded)
    whole = fine_tuned(begin, tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        train(DATA, begin, HARD, out, pace=ALWAYS, observer=Observer(on_progress=at_step(step, kill)))
    saved = load_checkpoint(out / CHECKPOINT)
    assert saved.start is not None
    left = begin if with_file else Start(architecture=saved.architecture, basis=saved.start, tensors={})
    resumed = fine_tuned(left, out, resume=Resume.SAME_MACHINE)
    assert all(bits(whole, name) == bits(resumed, name) for name in whole.tensors)
    assert record_of(whole).start == record_of(resumed).start


def test_another_start_is_not_the_same_run(loaded: LoadedWeights, tmp_path: Path) -> None:
    begin, out = start(loaded), tmp_path / "run"
    fine_tuned(begin, out)
    mean = msgspec.structs.replace(loaded.weights.preprocessing, mean=(1.0, 2.0, 3.0))
    others: tuple[tuple[Architecture | Start, str], ...] = (
        (TWO, r"the run was started from base\.safetensors \(SHA-256 a{12}\), but with random layers was requested"),
        (start(loaded, ("conv1",)), "the run's frozen layers are conv1, conv2, fc6, but conv1 was requested"),
        (start(replace(loaded, sha256="b" * 64)), r"but from base\.safetensors \(SHA-256 b{12}\) was requested"),
        (start(replace(loaded, weights=replace(loaded.weights, preprocessing=mean))), "resume without --from"),
        (start(labelled(loaded, "blue", "red")), "the run's new layers are fc8, but none was requested"),
    )
    for other, sentence in others:
        with pytest.raises(UsageError, match=sentence):
            train(DATA, other, HARD, out, resume=Resume.SAME_MACHINE, observer=NOBODY)


def test_two_columns_start_from_weights_and_freeze_both_halves(tmp_path: Path) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["original"]))
    loaded = LoadedWeights(weights=weights, path=Path("base"), sha256="a" * 64)
    begin = start(loaded, ("conv1", "conv2"))
    tuned = fine_tuned(begin, tmp_path / "run", placement=placed("cpu", columns=True))
    for name in set(weights.tensors) - {"fc8.weight", "fc8.bias"}:
        assert (bits(tuned, name) == bits(weights, name)) is (name.split(".")[0] in ("conv1", "conv2")), name
