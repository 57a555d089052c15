import errno
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from training import (
    ALWAYS,
    BLUE,
    NARROW,
    RECIPE,
    RED,
    Run,
    are_equal,
    at_step,
    interrupt,
    network_in,
    paint,
    record_of,
)

from alexnet_deploy.core.errors import BackendError, DataError, TrainingError, UsageError
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT
from alexnet_deploy.train.loop.record import Observer, Progress
from alexnet_deploy.train.loop.run_directory import BEST, METRICS
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.run import choose_device, look_over, new_run_name, train


def test_an_interruption_in_the_first_epoch_leaves_the_weights_of_that_moment(honest: Survey, tmp_path: Path) -> None:
    for number, step in enumerate((2, 1)):
        with pytest.raises(KeyboardInterrupt):
            train(
                honest,
                NARROW,
                RECIPE,
                tmp_path / f"run {number}",
                observer=Observer(on_progress=at_step(step, interrupt)),
            )
    one, other = (load_weights(tmp_path / f"run {number}" / BEST).weights for number in (0, 1))
    assert are_equal(one, network_in(tmp_path / "run 0"))
    assert not are_equal(one, other)
    for weights in (one, other):
        record = record_of(weights)
        assert (record.interrupted, record.epochs, record.best_epoch) == (True, (), 0)


def test_an_interruption_after_an_epoch_keeps_the_best_epochs_weights(
    honest: Survey, plain: Run, tmp_path: Path
) -> None:
    out = tmp_path / "runs/cut"
    with pytest.raises(KeyboardInterrupt):
        train(honest, NARROW, plain.recipe, out, observer=Observer(on_progress=at_step(4, interrupt)))
    best = load_weights(out / BEST).weights
    assert are_equal(best, plain.after_epochs[0])
    assert not are_equal(best, network_in(out))
    record = record_of(best)
    assert (record.interrupted, len(record.epochs), record.best_epoch) == (True, 1, 1)
    assert len((out / METRICS).read_bytes().splitlines()) == 1


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("call", range(1, 6))
def test_an_interruption_while_files_are_written_leaves_a_record_that_fits_its_weights(
    honest: Survey, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, call: int
) -> None:
    # The end of an epoch syncs the weights, their directory, the checkpoint, its directory, and the directory again.
    out = tmp_path / "runs/cut"
    fsync, calls = os.fsync, []

    def interrupted(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            interrupt()
        fsync(descriptor)

    def arm(now: Progress) -> None:
        if now.finished and now.finished.epoch == epoch:
            monkeypatch.setattr(os, "fsync", interrupted)

    with pytest.raises(KeyboardInterrupt):
        train(honest, NARROW, plain.recipe, out, pace=ALWAYS, observer=Observer(on_progress=arm))
    assert len(calls) > 5
    weights = load_weights(out / BEST).weights
    record = record_of(weights)
    assert record.interrupted == (epoch < 2)
    assert len(record.epochs) == epoch
    whole = plain.after_epochs[record.best_epoch - 1]
    assert are_equal(weights, whole)
    assert are_equal(network_in(out), plain.after_epochs[epoch - 1])
    if record_of(plain.best).best_epoch == record.best_epoch:
        assert record.confusion == record_of(plain.best).confusion


def test_a_loss_that_is_no_number_stops_training_and_leaves_the_best_epoch_and_the_last_checkpoint(
    honest: Survey, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def keep(now: Progress) -> None:
        assert math.isfinite(now.loss)
        if (out / CHECKPOINT).exists():
            kept[CHECKPOINT] = (out / CHECKPOINT).read_bytes()

    recipe = msgspec.structs.replace(RECIPE, epochs=9, batch_size=10, learning_rate=10.0)
    with pytest.raises(TrainingError) as caught:
        train(honest, NARROW, recipe, out, pace=Pace(least_seconds=math.inf), observer=Observer(on_progress=keep))
    assert str(out) in str(caught.value)
    assert "try a --lr below 10" in str(caught.value)
    assert {path.name for path in out.iterdir()} == {BEST, METRICS}
    record = record_of(load_weights(out / BEST).weights)
    assert len(record.epochs) == len((out / METRICS).read_bytes().splitlines()) >= record.best_epoch > 0
    with pytest.raises(TrainingError) as again:
        train(honest, NARROW, recipe, tmp_path / "again", pace=ALWAYS, observer=Observer(on_progress=keep))
    assert str(again.value) == str(caught.value).replace(str(out), str(tmp_path / "again"))
    state = network_in(tmp_path / "again")
    assert all(np.isfinite(tensor).all() for tensor in state.tensors.values())


@pytest.mark.parametrize("batch_size", [4, 10])
def test_a_loss_that_is_no_number_in_the_first_epoch_leaves_nothing(
    honest: Survey, tmp_path: Path, batch_size: int
) -> None:
    # With ten images per step, the validation after the first step shows it.
    recipe = msgspec.structs.replace(RECIPE, batch_size=batch_size, learning_rate=1e30)
    losses: list[float] = []
    observer = Observer(on_progress=lambda now: losses.append(now.loss))
    with pytest.raises(TrainingError, match=r"in epoch 1; try a --lr below 1e\+30$"):
        train(honest, NARROW, recipe, tmp_path / "run", observer=observer)
    assert losses
    assert all(map(math.isfinite, losses))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_replace_no_checkpoint(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step may produce them although its own loss was finite.
    out = tmp_path / "run"
    sgd = torch.optim.SGD.step
    kept: list[bytes] = []

    def spoil(optimiser: torch.optim.SGD) -> None:
        kept.append((out / CHECKPOINT).read_bytes())
        sgd(optimiser)
        with torch.no_grad():
            optimiser.param_groups[1]["params"][0].fill_(math.inf)

    arm = at_step(2, lambda: monkeypatch.setattr(torch.optim.SGD, "step", spoil))
    with pytest.raises(TrainingError, match=r"conv1\.bias is infinite or NaN in epoch 1; try a --lr below 0\.005$"):
        train(honest, NARROW, RECIPE, out, pace=ALWAYS, observer=Observer(on_progress=arm))
    assert (out / CHECKPOINT).read_bytes() == kept[0]


def disk_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_in_a_sentence_and_leaves_the_older_files(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def fill(now: Progress) -> None:
        if now.epoch == 2:
            kept.update({name: (out / name).read_bytes() for name in (BEST, CHECKPOINT)})
            monkeypatch.setattr(os, "fsync", disk_full)

    with pytest.raises(TrainingError) as caught:
        train(honest, NARROW, RECIPE, out, pace=ALWAYS, observer=Observer(on_progress=fill))
    assert str(caught.value) == (
        f"{out}: could not be written: No space left on device; the checkpoint of epoch 2, step 0 is intact and the "
        f"weights of epoch 1 are in {out / BEST}; free space there, then run "
        f"`alexnet-deploy train --resume --out {out}`"
    )
    assert {path.name for path in out.iterdir()} == {BEST, CHECKPOINT, METRICS}
    for name, data in kept.items():
        assert (out / name).read_bytes() == data


def test_an_image_that_vanishes_while_training_is_named(tmp_path: Path) -> None:
    root = paint(tmp_path / "data", {"blue": (BLUE,), "red": (RED,)})
    vanish = at_step(3, (root / "train/red/3.png").unlink)
    with pytest.raises(DataError, match=r"train/red/3\.png: cannot be read any more; it could be read before"):
        train(look_over(root, SHORTER_SIDE), NARROW, RECIPE, tmp_path / "run", observer=Observer(on_progress=vanish))
    assert len(record_of(load_weights(tmp_path / "run" / BEST).weights).epochs) == 1


def test_a_directory_that_exists_or_cannot_be_made_is_refused(honest: Survey, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(TrainingError, match=r"taken: cannot be created: File exists$"):
        train(honest, NARROW, RECIPE, taken)
    assert list(tmp_path.rglob("*")) == [taken]
    taken.rmdir()
    taken.write_bytes(b"a file")
    with pytest.raises(TrainingError, match=r"run: cannot be created: Not a directory$"):
        train(honest, NARROW, RECIPE, taken / "run")
    assert taken.read_bytes() == b"a file"


def test_a_device_is_kept_or_refused_and_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(BackendError, match="no CUDA device found by torch; use --device cpu"):
        choose_device("cuda")
    with pytest.raises(UsageError, match=r"'tpu' is not a training device; use auto, cpu or cuda"):
        choose_device("tpu")


def test_a_run_is_named_after_its_table_and_the_time() -> None:
    name, day, time = new_run_name(NARROW).split("-")
    assert (name, len(day), len(time)) == ("paper", 8, 6)
    assert (day + time).isdigit()
