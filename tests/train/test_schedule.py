import math
from pathlib import Path

import msgspec
import numpy as np
from training import NARROW, RECIPE, record_of

from alexnet_deploy.core.model.architecture import Dropout
from alexnet_deploy.core.model.weights import EpochMetrics, load_weights
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.diagnostics import plateau_remarks
from alexnet_deploy.train.loop.record import Observer
from alexnet_deploy.train.recipe import recipe_by_name
from alexnet_deploy.train.run import train
from alexnet_deploy.train.schedule import has_ended, learning_rate, mean_decay


def metrics_of(epoch: int, error: float, train_loss: float = 1.0) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        learning_rate=0.1,
        train_loss=train_loss,
        validation_loss=1.0,
        validation_top1=1 - error,
        validation_top5=1.0,
        images_per_second=1.0,
    )


def test_a_run_ends_with_its_epochs_or_early_where_none_of_the_last_was_the_best() -> None:
    ends = {
        (epochs_done, early_stopping)
        for epochs_done in range(3, 9)
        for early_stopping in (0, 1, 2, 4)
        if has_ended(num_epochs=8, early_stopping=early_stopping, epochs_done=epochs_done, best_epoch=3)
    }
    assert ends == {(8, 0), *((n, 1) for n in range(4, 9)), *((n, 2) for n in range(5, 9)), (7, 4), (8, 4)}
    assert not has_ended(num_epochs=8, early_stopping=1, epochs_done=0, best_epoch=0), "nothing is done yet"


def after(num_epochs: int) -> list[EpochMetrics]:
    return [metrics_of(number, 0.5) for number in range(1, num_epochs + 1)]


def test_original_divides_where_the_released_codes_log_does() -> None:
    original = recipe_by_name("original")
    assert (original.initialisation, original.bias_learning_rate, original.color_noise_epochs) == ("original", 0.02, 66)
    rates = {epoch: learning_rate(original, after(epoch - 1), 0, 10) for epoch in range(1, original.epochs + 1)}
    assert [epoch for epoch in range(2, 91) if rates[epoch] != rates[epoch - 1]] == [25, 51, 79]
    np.testing.assert_allclose([rates[n] for n in (1, 25, 51, 79)], [1e-2, 1e-3, 1e-4, 1e-5], rtol=1e-12)


def test_a_cosine_rises_from_nothing_and_falls_to_nothing() -> None:
    cosine = msgspec.structs.replace(RECIPE, schedule="cosine", epochs=10, warmup_epochs=2, learning_rate=0.4)
    rates = [learning_rate(cosine, after(epoch), step, 5) for epoch in range(10) for step in range(5)]
    np.testing.assert_allclose(rates[:10], 0.04 * np.arange(1, 11))
    np.testing.assert_allclose(rates[10:], 0.2 * (1 + np.cos(np.pi * np.arange(40) / 40)))
    assert rates[10] == 0.4
    assert 0 < rates[-1] < 0.001


def test_a_plateau_divides_as_often_as_the_recipe_has_it() -> None:
    waiting = msgspec.structs.replace(RECIPE, patience=2, divisions=2, learning_rate=1.0)
    errors = [0.5, 0.4, 0.4, 0.4, 0.39995, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    epochs = [metrics_of(number, error) for number, error in enumerate(errors, 1)]
    rates = [learning_rate(waiting, epochs[:number], 1, 2) for number in range(len(errors) + 1)]
    # 0.39995 does not count as an improvement on 0.4.
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01], rtol=1e-12)


# Stalled at ln K


def test_three_epochs_at_ln_k_are_told_with_their_remedy_each_time_they_occur() -> None:
    blind = math.log(4)
    losses = [blind, 1.009 * blind, 0.991 * blind, blind, 0.9 * blind, blind, blind, 1.02 * blind, blind, blind, blind]
    epochs = [metrics_of(number, 0.75, loss) for number, loss in enumerate(losses, 1)]
    assert plateau_remarks(RECIPE, epochs[:2], 4) == ()
    first, second = plateau_remarks(RECIPE, epochs, 4)
    assert plateau_remarks(RECIPE, epochs[:3], 4) == plateau_remarks(RECIPE, epochs[:10], 4) == (first,)
    assert first == (
        "the training loss stayed within 1% of ln 4 = 1.386 (random guessing) for 3 epochs, up to epoch 3; "
        "try --lr 0.0017 or 0.015, and check the labels"
    )
    assert second == first.replace("epoch 3;", "epoch 11;")
    assert plateau_remarks(RECIPE, epochs, 5) == ()
    as_paper = msgspec.structs.replace(RECIPE, initialisation="paper")
    remedy = "; initialisation 'paper' is known for this: try --set initialisation=kaiming"
    assert plateau_remarks(as_paper, epochs, 4)[0].endswith(remedy)


def test_a_run_that_stands_still_says_so_once_and_its_weights_keep_it(honest: Survey, tmp_path: Path) -> None:
    said: list[str] = []
    # The paper's small initial weights, steps too small to leave them, and no dropout, which would vary a few images.
    layers = tuple(
        msgspec.structs.replace(layer, probability=0.0) if isinstance(layer, Dropout) else layer
        for layer in NARROW.layers
    )
    sober = msgspec.structs.replace(NARROW, layers=layers)
    still = msgspec.structs.replace(RECIPE, epochs=4, initialisation="paper", learning_rate=1e-9)
    path = train(honest, sober, still, tmp_path / "still", observer=Observer(say=said.append))
    (remark,) = record_of(load_weights(path).weights).remarks
    assert said == [remark]
    assert "within 1% of ln 2 = 0.693" in remark
    assert "--set initialisation=kaiming" in remark
    learning = msgspec.structs.replace(RECIPE, epochs=4, learning_rate=0.02)
    path = train(honest, sober, learning, tmp_path / "learning", observer=Observer(say=said.append))
    assert record_of(load_weights(path).weights).remarks == ()
    assert len(said) == 1


def test_the_running_mean_keeps_more_the_more_steps_are_behind_it() -> None:
    recipe = msgspec.structs.replace(RECIPE, ema_decay=0.9)
    for num_steps in (1, 5):
        kept = [mean_decay(recipe, after(epoch), step, num_steps) for epoch in range(100) for step in range(num_steps)]
        np.testing.assert_allclose(kept, np.minimum(0.9, (1 + np.arange(len(kept))) / (10 + np.arange(len(kept)))))
        assert kept[-1] == 0.9
