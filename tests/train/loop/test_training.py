import math
import os
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from commands import HANGS_AFTER_S
from training import BLUE, GREEN, GREY, NARROW, RECIPE, RED, Run, are_equal, fed, flat_folder, paint, record_of, trained

from alexnet_deploy.core.images.decode import decode_image, read_image
from alexnet_deploy.core.model.network import Network, cut, network_from, preprocess, tensors_of
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, ImagePolicy
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import EpochMetrics
from alexnet_deploy.train.data import folder as folders
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.learner.init import initialise
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT
from alexnet_deploy.train.loop.run_directory import BEST, METRICS
from alexnet_deploy.train.run import look_over


def test_the_loss_begins_at_ln_k_and_falls_and_the_classes_are_told_apart(learnt: Run) -> None:
    assert learnt.progress[0].loss == pytest.approx(math.log(2), abs=0.15)
    assert learnt.epochs[0].train_loss == pytest.approx(math.log(2), abs=0.15)
    assert learnt.epochs[-1].train_loss < 0.85 * learnt.epochs[0].train_loss
    assert min(metrics.validation_loss for metrics in learnt.epochs) < 0.7 * learnt.epochs[0].validation_loss
    assert max(metrics.validation_top1 for metrics in learnt.epochs) >= 0.9


def test_the_best_weights_measure_what_their_record_says(learnt: Run) -> None:
    record = record_of(learnt.best)
    labels, logits = validated(learnt)
    best = record.epochs[record.best_epoch - 1]
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    assert record.confusion == tuple(tuple(row) for row in confusion.tolist())
    assert best.validation_top1 == np.trace(confusion) / 16
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert best.validation_loss == pytest.approx(-np.log(shares[np.arange(16), labels]).mean(), rel=1e-4)
    assert best.validation_top5 == 1.0


def validated(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the best weights' logits, of the validation images, computed without the training loop."""
    examples = run.survey.folder.validation
    images = np.stack([read_image(Path(example.place), SHORTER_SIDE) for example in examples])
    (center,) = views_by_name("center", 227)
    with torch.inference_mode():
        pixels = preprocess(torch.from_numpy(images), run.best.preprocessing)
        logits = network_from(run.best.architecture, run.best.tensors)(cut(pixels, center, 227)).numpy()
    return np.array([example.label for example in examples]), logits.astype(np.float64)


def test_with_more_than_five_classes_the_first_five_guesses_are_counted(tmp_path: Path) -> None:
    colors = (RED, GREEN, BLUE, GREY, (230, 220, 40), (240, 240, 240), (10, 10, 10))
    classes = {f"class {number}": (color,) for number, color in enumerate(colors)}
    run = trained(look_over(paint(tmp_path / "data", classes, num_train=1), SHORTER_SIDE), tmp_path / "run", epochs=1)
    labels, logits = validated(run)
    firsts = np.argsort(-logits, axis=1)[:, :5]
    top5 = (firsts == labels[:, None]).any(axis=1).mean()
    assert 0 < top5 < 1
    assert run.epochs[0].validation_top5 == top5


def test_progress_counts_images_and_the_end_of_an_epoch_carries_its_metrics(plain: Run) -> None:
    seen = [(now.epoch, now.num_images, now.finished is not None) for now in plain.progress]
    first = [(1, 4, False), (1, 8, False), (1, 10, False), (1, 10, True)]
    assert seen == first + [(2, 10 + num_images, is_end) for _, num_images, is_end in first]
    assert {now.total_images for now in plain.progress} == {20}
    assert tuple(now.finished for now in plain.progress if now.finished) == plain.epochs
    for number in (3, 7):
        assert plain.progress[number].loss == plain.progress[number - 1].loss == plain.epochs[number // 4].train_loss


def test_the_record_says_what_was_done(learnt: Run) -> None:
    record = record_of(learnt.best)
    assert record.recipe == msgspec.structs.asdict(learnt.recipe)
    assert record.data == str(learnt.survey.folder.root)
    assert record.data_sha256 == learnt.survey.sha256
    assert (record.num_train, record.num_validation, record.excluded) == (40, 16, {})
    assert record.device.startswith("cpu, ")
    assert not record.interrupted
    assert {"torch", "numpy", "alexnet-deploy"} <= learnt.best.tools.keys()
    assert learnt.best.labels == ("hot-air balloon", "mountain bike")
    assert learnt.best.architecture == NARROW.with_num_classes(2)


@pytest.mark.parametrize("name", ["learnt", "misled"])
def test_metrics_has_a_line_an_epoch_and_they_are_the_records(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    lines = (run.directory / METRICS).read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=EpochMetrics) for line in lines] == list(run.epochs)
    assert [metrics.epoch for metrics in run.epochs] == list(range(1, 9))
    assert sorted(path.name for path in run.directory.iterdir()) == sorted([BEST, CHECKPOINT, METRICS])


@pytest.mark.parametrize("name", ["learnt", "misled"])
def test_weights_are_the_best_epochs_and_the_checkpoint_the_newest(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    best = min(run.epochs, key=lambda metrics: (-metrics.validation_top1, metrics.validation_loss)).epoch
    assert record_of(run.best).best_epoch == best
    assert are_equal(run.best, run.after_epochs[best - 1])
    assert are_equal(run.last, run.after_epochs[-1])
    assert not are_equal(run.after_epochs[0], run.after_epochs[1])


def test_where_validation_only_gets_worse_an_early_epoch_is_kept(misled: Run) -> None:
    record = record_of(misled.best)
    assert record.best_epoch < 4
    assert misled.epochs[-1].validation_loss > 1.5 * misled.epochs[record.best_epoch - 1].validation_loss
    assert len(record.epochs) == 8
    assert not are_equal(misled.best, misled.last)
    np.testing.assert_array_equal(np.sum(record.confusion, axis=1), [2, 2])


def test_images_that_could_not_be_read_are_in_the_record(tmp_path: Path) -> None:
    root = paint(tmp_path / os.fsdecode(b"data \xe9"), {"blue": (BLUE,), "red": (RED,)})
    (root / "train/red" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    run = trained(look_over(root, SHORTER_SIDE), tmp_path / "run", epochs=1)
    assert record_of(run.best).excluded == {r"train/red/caf\xe9.png": "empty"}
    assert record_of(run.best).data.endswith(r"data \xe9")


def test_a_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(
    honest: Survey, plain: Run, tmp_path: Path
) -> None:
    again, other = (trained(honest, tmp_path / f"run{seed}", learning_rate=0.02, seed=seed) for seed in (0, 1))
    assert are_equal(plain.last, again.last)
    assert are_equal(plain.best, again.best)
    assert not are_equal(plain.last, other.last)


def test_another_seed_and_another_epoch_give_other_views_in_another_order(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this learning rate and without noise, only the network's inputs differ.
    batches = fed(monkeypatch)["train"]
    for seed in (0, 1):
        trained(
            honest, tmp_path / f"run{seed}", seed=seed, epochs=2, batch_size=10, learning_rate=1e-30, color_noise=0.0
        )
    assert len(batches) == 4
    reds = [tuple(view[0].mean() > 0 for view in batch) for batch in batches]
    assert len(set(reds)) == 4
    for number, batch in enumerate(batches):
        assert not any((batch == other).all(axis=(1, 2, 3)).any() for other in batches[:number])


def test_colour_noise_is_felt_and_flat_data_has_no_colours_to_shift_along(honest: Survey, tmp_path: Path) -> None:
    plain, noisy = (trained(honest, tmp_path / f"run {noise}", epochs=1, color_noise=noise) for noise in (0.0, 0.5))
    assert not are_equal(plain.last, noisy.last)
    flat = flat_folder(tmp_path / "flat", {"one": GREY, "two": GREY})
    assert not flat.covariance.any()
    plain, noisy = (trained(flat, tmp_path / f"flat {noise}", epochs=1, color_noise=noise) for noise in (0.0, 0.5))
    assert are_equal(plain.last, noisy.last)
    assert plain.best.preprocessing.scale == (1.0, 1.0, 1.0)
    assert np.isfinite(plain.epochs[0].train_loss)


def test_training_begins_with_the_first_values_of_its_seed(honest: Survey, tmp_path: Path) -> None:
    # At this learning rate float32 cannot represent the step of a weight; a bias of 0 can change.
    run = trained(honest, tmp_path / "run", epochs=1, learning_rate=1e-30, seed=7)
    network = Network(NARROW.with_num_classes(2))
    initialise(network, "kaiming", seed=7)
    for name, first in tensors_of(network).items():
        np.testing.assert_allclose(run.last.tensors[name], first, rtol=0, atol=1e-25)


@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_ahead_in_threads_changes_no_bit(
    honest: Survey, plain: Run, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders: set[str] = set()
    together = threading.Barrier(threads, timeout=HANGS_AFTER_S)

    def noted(data: bytes, policy: ImagePolicy) -> np.ndarray:
        if (name := threading.current_thread().name) not in decoders:
            decoders.add(name)
            # Until the requested number of threads decode.
            together.wait()
        return decode_image(data, policy)

    monkeypatch.setattr(folders, "decode_image", noted)
    run = trained(honest, tmp_path / "run", epochs=1, learning_rate=0.02, threads=threads)
    assert are_equal(run.last, plain.after_epochs[0])
    assert threading.current_thread().name not in decoders


def test_weights_decay_and_biases_do_not(honest: Survey, tmp_path: Path) -> None:
    # One step from the same initial weights along the same gradient: only the decay differs.
    decay, rate = 0.5, 0.001
    plain, decayed = (
        trained(
            honest,
            tmp_path / f"run {value}",
            epochs=1,
            batch_size=10,
            learning_rate=rate,
            weight_decay=value,
            initialisation="paper",
        ).last.tensors
        for value in (0.0, decay)
    )
    network = Network(NARROW.with_num_classes(2))
    initialise(network, "paper", RECIPE.seed)
    for name, first in tensors_of(network).items():
        if name.endswith(".bias"):
            np.testing.assert_array_equal(decayed[name], plain[name])
        else:
            # float32 has a relative precision of 2^-24; weights and step reach 0.05.
            np.testing.assert_allclose(decayed[name] - plain[name], -rate * decay * first, rtol=0, atol=1e-8)


def test_momentum_carries_a_step_into_the_next(honest: Survey, tmp_path: Path) -> None:
    one_step, two_steps = (
        [trained(honest, tmp_path / f"run {size} {m}", epochs=1, batch_size=size, momentum=m).last for m in (0.0, 0.9)]
        for size in (10, 5)
    )
    assert are_equal(*one_step)
    assert not are_equal(*two_steps)


def rates(run: Run) -> list[float]:
    return [metrics.learning_rate for metrics in run.epochs]


def expected_rates(run: Run) -> list[float]:
    """Divide by 10 whenever `patience` consecutive epochs had no validation error below the lowest before."""
    rate, least, waited, expected = run.recipe.learning_rate, math.inf, 0, []
    for metrics in run.epochs:
        expected.append(rate)
        if (error := 1 - metrics.validation_top1) < least:
            least, waited = error, 0
        else:
            waited += 1
        if waited == run.recipe.patience:
            rate, waited = rate / 10, 0
    return expected


def test_the_rate_is_divided_by_10_after_as_many_epochs_without_a_better_error(misled: Run) -> None:
    # The first epochs predict one class, half of the images are right, and no later epoch is better.
    assert [metrics.validation_top1 for metrics in misled.epochs][:2] == [0.5, 0.5]
    np.testing.assert_allclose(rates(misled), [0.005] * 3 + [0.0005] * 2 + [0.00005] * 2 + [0.000005], rtol=1e-12)


def test_a_better_error_lets_the_rate_stand_and_a_better_loss_alone_does_not(honest: Survey, tmp_path: Path) -> None:
    better, waiting = (
        trained(honest, tmp_path / f"run {rate}", epochs=4, patience=1, learning_rate=rate) for rate in (0.02, 0.005)
    )
    for run in (better, waiting):
        np.testing.assert_allclose(rates(run), expected_rates(run), rtol=1e-12)
    assert better.epochs[1].validation_top1 > better.epochs[0].validation_top1
    assert rates(better)[2] == 0.02
    assert waiting.epochs[1].validation_top1 == waiting.epochs[0].validation_top1
    assert waiting.epochs[1].validation_loss < waiting.epochs[0].validation_loss - 0.01
    assert rates(waiting)[2] < 0.005
