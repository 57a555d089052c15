import errno
import math
import os
from pathlib import Path

import msgspec
import pytest
import torch
from training import (
    BLUE,
    NARROW,
    RECIPE,
    RED,
    Run,
    are_equal,
    at_step,
    interrupt,
    paint,
    record_of,
)

from alexnet_deploy.core.errors import BackendError, DataError, TrainingError, UsageError
from alexnet_deploy.core.weights import load_weights
from alexnet_deploy.train.dataset import Survey
from alexnet_deploy.train.loop import BEST, LAST, METRICS, Progress
from alexnet_deploy.train.run import choose_device, look_over, new_run_name, train_on


def test_an_interruption_in_the_first_epoch_leaves_the_weights_of_that_moment(honest: Survey, tmp_path: Path) -> None:
    out = tmp_path / "runs/one"
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, RECIPE, out, on_progress=at_step(2, interrupt))
    best, last = (load_weights(out / name).weights for name in (BEST, LAST))
    assert are_equal(best, last)
    for weights in (best, last):
        record = record_of(weights)
        assert (record.interrupted, record.epochs, record.best_epoch) == (True, (), 0)
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, RECIPE, tmp_path / "runs/two", on_progress=at_step(1, interrupt))
    assert not are_equal(load_weights(tmp_path / "runs/two" / LAST).weights, last)


def test_an_interruption_after_an_epoch_keeps_the_best_epochs_weights(
    honest: Survey, plain: Run, tmp_path: Path
) -> None:
    out = tmp_path / "runs/cut"
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, plain.recipe, out, on_progress=at_step(4, interrupt))
    best, last = (load_weights(out / name).weights for name in (BEST, LAST))
    assert are_equal(best, plain.after_epochs[0])
    assert not are_equal(best, last)
    for weights in (best, last):
        record = record_of(weights)
        assert (record.interrupted, len(record.epochs), record.best_epoch) == (True, 1, 1)
    assert len((out / METRICS).read_bytes().splitlines()) == 1


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("call", [1, 3])
def test_an_interruption_while_files_are_written_leaves_a_record_that_fits_its_weights(
    honest: Survey, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, call: int
) -> None:
    # Each file is written with two calls, itself and its directory: the first is in the best, the third in the last.
    out = tmp_path / "runs/cut"
    fsync, calls = os.fsync, []

    def interrupted(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            interrupt()
        fsync(descriptor)

    steps_an_epoch = 3
    arm = at_step(steps_an_epoch * epoch, lambda: monkeypatch.setattr(os, "fsync", interrupted))
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, plain.recipe, out, on_progress=arm)
    for name in (BEST, LAST):
        weights = load_weights(out / name).weights
        record = record_of(weights)
        assert record.interrupted == (len(record.epochs) < 2)
        assert len(record.epochs) == epoch
        if name == BEST:
            whole = plain.after_epochs[record.best_epoch - 1]
            assert are_equal(weights, whole)
            assert record.confusion == record_of(whole).confusion


def test_a_loss_that_is_no_number_stops_training_and_leaves_the_epochs_before(honest: Survey, tmp_path: Path) -> None:
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def keep(now: Progress) -> None:
        assert math.isfinite(now.loss)
        if now.finished:
            kept.update({path.name: path.read_bytes() for path in out.iterdir()})

    recipe = msgspec.structs.replace(RECIPE, epochs=9, batch_size=10, learning_rate=10.0)
    with pytest.raises(TrainingError) as caught:
        train_on(honest, NARROW, recipe, out, on_progress=keep)
    assert str(out) in str(caught.value)
    assert "a --lr under 10 may hold" in str(caught.value)
    assert kept
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    assert load_weights(out / BEST).weights.training is not None


@pytest.mark.parametrize("batch_size", [4, 10])
def test_a_loss_that_is_no_number_in_the_first_epoch_leaves_nothing(
    honest: Survey, tmp_path: Path, batch_size: int
) -> None:
    # With ten pictures a step, it is the validation after the first step that shows it.
    recipe = msgspec.structs.replace(RECIPE, batch_size=batch_size, learning_rate=1e30)
    losses: list[float] = []
    with pytest.raises(TrainingError, match=r"in epoch 1; a --lr under 1e\+30 may hold$"):
        train_on(honest, NARROW, recipe, tmp_path / "run", on_progress=lambda now: losses.append(now.loss))
    assert losses
    assert all(map(math.isfinite, losses))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_a_sentence_and_leaves_the_older_files(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(now: Progress) -> None:
        if now.finished:
            kept.update({name: (out / name).read_bytes() for name in (BEST, LAST)})
            monkeypatch.setattr(os, "fsync", disk_full)

    with pytest.raises(TrainingError) as caught:
        train_on(honest, NARROW, RECIPE, out, on_progress=fill)
    assert str(caught.value) == f"{out}: could not be written: No space left on device"
    assert {path.name for path in out.iterdir()} == {BEST, LAST, METRICS}
    for name, data in kept.items():
        assert (out / name).read_bytes() == data


def test_a_picture_that_vanishes_while_training_is_named(tmp_path: Path) -> None:
    root = paint(tmp_path / "data", {"blue": (BLUE,), "red": (RED,)})
    vanish = at_step(3, (root / "train/red/3.png").unlink)
    with pytest.raises(DataError, match=r"train/red/3\.png: could be read before, and now cannot"):
        train_on(look_over(root, NARROW), NARROW, RECIPE, tmp_path / "run", on_progress=vanish)
    assert len(record_of(load_weights(tmp_path / "run" / BEST).weights).epochs) == 1


def test_a_directory_that_exists_or_cannot_be_made_is_refused(honest: Survey, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(TrainingError, match=r"taken: cannot be made: File exists$"):
        train_on(honest, NARROW, RECIPE, taken)
    assert list(tmp_path.rglob("*")) == [taken]
    taken.rmdir()
    taken.write_bytes(b"a file")
    with pytest.raises(TrainingError, match=r"run: cannot be made: Not a directory$"):
        train_on(honest, NARROW, RECIPE, taken / "run")
    assert taken.read_bytes() == b"a file"


def test_a_device_is_kept_or_refused_and_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(BackendError, match="cuda was asked for, and torch finds no CUDA device"):
        choose_device("cuda")
    with pytest.raises(UsageError, match=r"'tpu' is no device to train on; there are auto, cpu, cuda"):
        choose_device("tpu")


def test_a_run_is_named_after_its_table_and_the_time() -> None:
    name, day, time = new_run_name(NARROW).split("-")
    assert (name, len(day), len(time)) == ("paper", 8, 6)
    assert (day + time).isdigit()
