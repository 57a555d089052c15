import errno
import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import kills
import msgspec
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from commands import HANGS_AFTER_S
from commands import Run as Command
from networks import narrowed
from training import ALWAYS, NARROW, RECIPE, at_step, interrupt, memory_set, record_of

from alexnet_deploy.core.errors import AlexNetDeployError, DataError, TrainingError, UsageError, WeightsError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.run_files import CSV
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.model.weights import CHECKPOINT_KEY, EpochMetrics, Weights, load_weights
from alexnet_deploy.inspection.facts import RunFacts, inspect_path
from alexnet_deploy.pipeline.pages.run_report import REPORT
from alexnet_deploy.train.learner.learner import Learner
from alexnet_deploy.train.loop import run_directory
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, Checkpoint, RunIdentity, load_checkpoint, load_tensors
from alexnet_deploy.train.loop.logs import TensorBoardLog
from alexnet_deploy.train.loop.record import Observer, Progress
from alexnet_deploy.train.loop.run_directory import BEST, METRICS, holding
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.run import Resume
from alexnet_deploy.train.run import train as train_run

NEVER = Pace(share=0.0, least_seconds=math.inf)
SHORT = msgspec.structs.replace(RECIPE, epochs=2, batch_size=6, learning_rate=0.01)
EARLY = msgspec.structs.replace(SHORT, epochs=5, early_stopping=1)
IMAGES = memory_set()
FIRST = dict.fromkeys(EpochMetrics.__struct_fields__, 1.0)


def train(out: Path, recipe: Recipe = SHORT, **options: object) -> Path:
    return train_run(IMAGES, NARROW, recipe, out, **options)  # type: ignore[arg-type]


def without_speed(epochs: tuple[EpochMetrics, ...]) -> list[EpochMetrics]:
    return [msgspec.structs.replace(metrics, images_per_second=0.0) for metrics in epochs]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit-identical except for times; one line per epoch; no leftover files."""
    best, other_best = (load_weights(path / BEST).weights for path in (one, other))
    assert best.tensors.keys() == other_best.tensors.keys()
    for name, tensor in best.tensors.items():
        np.testing.assert_array_equal(tensor.view(np.uint32), other_best.tensors[name].view(np.uint32))
    record, other_record = record_of(best), record_of(other_best)
    assert without_speed(record.epochs) == without_speed(other_record.epochs)
    for name in ("recipe", "best_epoch", "confusion", "interrupted", "remarks"):
        assert getattr(record, name) == getattr(other_record, name)
    states = [load_checkpoint(path / CHECKPOINT) for path in (one, other)]
    tensors, other_tensors = (
        load_tensors(path / CHECKPOINT, state) for path, state in zip((one, other), states, strict=True)
    )
    assert len({name.partition(".")[0] for name in tensors}) > 1
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
    for path in (one, other):
        lines = (path / METRICS).read_bytes().splitlines()
        found = tuple(msgspec.json.decode(line, type=EpochMetrics) for line in lines)
        assert without_speed(found) == without_speed(record.epochs)
        # The command adds a report.
        assert {entry.name for entry in path.iterdir()} - {REPORT} == {BEST, CHECKPOINT, METRICS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run: two epochs of two steps; the first is the best."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return out


# Resuming


def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, kills.__file__, tmp_path, "7"],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= 20
    assert counts["in_writes"] >= 1
    for number in range(counts["runs"]):
        assert_same_run(tmp_path / f"killed {number}", tmp_path / "whole")
    record = record_of(load_weights(tmp_path / "whole" / BEST).weights)
    assert len(record.epochs) == kills.KILLED_RECIPE.epochs
    assert record.epochs[-1].train_loss != record.epochs[0].train_loss


class Killed(BaseException):
    """Like SIGKILL: nothing handles it."""


def test_a_kill_between_any_two_writes_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = memory_set(num_train=4, num_validation=2)
    train_run(few, NARROW, SHORT, tmp_path / "whole")
    fsync, replace = os.fsync, Path.replace
    left = [0]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def counted_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    def counted_replace(path: Path, target: Path) -> Path:
        count()
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", counted_fsync)
    monkeypatch.setattr(Path, "replace", counted_replace)
    for number in range(1, 100):
        out = tmp_path / f"run {number}"
        left[0] = number
        try:
            train_run(few, NARROW, SHORT, out, pace=ALWAYS)
        except Killed:
            left[0] = -1
            resumable = (out / CHECKPOINT).exists()
            if resumable:
                train_run(few, NARROW, SHORT, out, pace=ALWAYS, resume=Resume.SAME_MACHINE)
                assert_same_run(out, tmp_path / "whole")
            assert resumable or number < 3
        else:
            break
    assert 15 < number < 100


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_an_interrupted_run_goes_on_where_it_was(whole: Path, tmp_path: Path, step: int) -> None:
    seen: list[Progress] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", pace=NEVER, observer=Observer(on_progress=at_step(step, interrupt)))
    position = load_checkpoint(tmp_path / "run" / CHECKPOINT).position
    assert (position.epoch, position.step) == (1 + (step - 1) // 2, 1 + (step - 1) % 2)
    train(tmp_path / "run", resume=Resume.SAME_MACHINE, observer=Observer(on_progress=seen.append))
    assert_same_run(tmp_path / "run", whole)
    # No step is repeated.
    assert [now.num_images for now in seen if not now.finished] == [6 * number for number in range(step + 1, 5)]


def test_an_interrupted_validation_is_done_again(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = Learner.logits

    def stop(learner: Learner, views: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(Learner, "logits", logits)
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "logits", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    train(tmp_path / "run", resume=Resume.SAME_MACHINE)
    assert_same_run(tmp_path / "run", whole)


def test_a_finished_run_is_left_as_it_is(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out)
    train(out, resume=Resume.SAME_MACHINE, observer=Observer(on_progress=lambda now: interrupt()))
    assert_same_run(out, whole)


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stops early: the second of up to five epochs is worse than the first."""
    out = tmp_path_factory.mktemp("early") / "run"
    said: list[str] = []
    train(out, EARLY, observer=Observer(say=said.append))
    record = record_of(load_weights(out / BEST).weights)
    assert (len(record.epochs), record.best_epoch, record.interrupted) == (2, 1, False)
    assert said == ["stopped early: 1 epoch without improvement since epoch 1"]
    return out


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_run_that_stops_early_does_so_wherever_it_was_interrupted(early: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", EARLY, pace=NEVER, observer=Observer(on_progress=at_step(step, interrupt)))
    train(tmp_path / "run", EARLY, resume=Resume.SAME_MACHINE)
    assert_same_run(tmp_path / "run", early)


def test_a_run_that_has_stopped_early_is_finished(early: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(early, out)
    train(out, EARLY, resume=Resume.SAME_MACHINE, observer=Observer(on_progress=lambda now: interrupt()))
    assert_same_run(out, early)
    facts = inspect_path(out)
    assert isinstance(facts, RunFacts)
    assert (facts.epochs, facts.epochs_done, facts.is_finished) == (5, 2, True)
    assert facts.next == f"alexnet-deploy export {out}"


def test_a_line_that_was_cut_short_is_written_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(out, observer=Observer(on_progress=at_step(3, interrupt)))
    with (out / METRICS).open("ab") as file:
        file.write(b'{"epoch":2,"learn')
    train(out, resume=Resume.SAME_MACHINE)
    assert_same_run(out, whole)


def test_best_weights_that_no_checkpoint_speaks_of_do_not_outlive_a_resumption(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when the loss becomes NaN: the best epoch's weights are written, and the checkpoint is older.
    out, save = tmp_path / "run", Learner.step
    recipe = msgspec.structs.replace(SHORT, epochs=3)
    steps: list[int] = []

    def fail(learner: Learner, *arguments: object, **options: object) -> torch.Tensor:
        steps.append(1)
        loss = save(learner, *arguments, **options)  # type: ignore[arg-type]
        return loss * math.nan if len(steps) == 5 else loss

    monkeypatch.setattr(Learner, "step", fail)
    for number, stopped in enumerate(("known", "run")):
        steps.clear()
        with pytest.raises(TrainingError, match="the loss became nan in epoch 3"):
            train(tmp_path / stopped, recipe, pace=(ALWAYS, NEVER)[number])
        assert record_of(load_weights(tmp_path / stopped / BEST).weights).best_epoch > 0
    assert not (out / CHECKPOINT).exists()
    monkeypatch.undo()
    train(tmp_path / "whole", recipe)
    train(tmp_path / "known", recipe, resume=Resume.SAME_MACHINE)
    assert_same_run(tmp_path / "known", tmp_path / "whole")


# Times of checkpoints


def test_a_checkpoint_is_written_when_the_last_one_cost_little_of_the_time_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_deploy.train.loop import trainer as loop

    now, saved = [0.0], []
    save, step = run_directory.RunDirectory.save, Learner.step

    def slow_save(*arguments: object) -> None:
        saved.append(now[0])
        now[0] += 1.0
        save(*arguments)  # type: ignore[arg-type]

    def slow_step(*arguments: object, **options: object) -> torch.Tensor:
        now[0] += 1.0
        return step(*arguments, **options)  # type: ignore[arg-type]

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return now[0]

    monkeypatch.setattr(loop, "time", Clock)
    monkeypatch.setattr(run_directory.RunDirectory, "save", slow_save)
    monkeypatch.setattr(Learner, "step", slow_step)
    recipe = msgspec.structs.replace(SHORT, epochs=12, learning_rate=1e-4)
    train(tmp_path / "run", recipe, pace=Pace(share=0.1, least_seconds=5.0))
    # After five steps of one second, then ten seconds after the last one was written, and at the end.
    assert saved == [5, 16, 26]


# Refusals


def resumed(out: Path, *, any_machine: bool = False, **changes: object) -> None:
    arguments: dict[str, object] = {"data": IMAGES, "network": NARROW, "recipe": SHORT, "out": out}
    resume = Resume.ANY_MACHINE if any_machine else Resume.SAME_MACHINE
    train_run(**({"resume": resume} | arguments | changes))  # type: ignore[arg-type]


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped in its first epoch."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(out, observer=Observer(on_progress=at_step(1, interrupt)))
    return out


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"recipe": msgspec.structs.replace(SHORT, epochs=3)}, UsageError, "epochs 2, but 3 was requested; request"),
        ({"recipe": msgspec.structs.replace(SHORT, seed=1)}, UsageError, "has seed 0, but 1 was requested; request"),
        (
            {"network": ARCHITECTURES["tiny"]},
            UsageError,
            "but tiny of 2 classes and 809,058 parameters was requested",
        ),
        (
            {"network": narrowed(ARCHITECTURES["paper"], divisor=4)},
            UsageError,
            "was requested; request the same architecture",
        ),
        (
            {"data": memory_set(shift=1)},
            DataError,
            "split them; restore them, or start a new run",
        ),
    ],
)
def test_another_run_is_not_taken_for_the_same(
    changes: dict[str, object], kind: type[AlexNetDeployError], sentence: str, stopped: Path
) -> None:
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(kind) as caught:
        resumed(stopped, **changes)
    assert str(caught.value).startswith(f"{stopped / CHECKPOINT}: ")
    assert sentence in str(caught.value)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


def test_a_run_does_not_go_on_under_another_decoding_policy(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = load_checkpoint(stopped / CHECKPOINT)
    assert saved.decoding == DECODING_VERSION
    # A checkpoint without the field is of version 1.
    fields = msgspec.json.decode(msgspec.json.encode(saved))
    del fields["decoding"]
    assert msgspec.convert(fields, Checkpoint).decoding == 1
    newer = functools.partial(RunIdentity, decoding=DECODING_VERSION + 1)
    monkeypatch.setattr("alexnet_deploy.train.run.RunIdentity", newer)
    with pytest.raises(
        DataError, match=f"{DECODING_VERSION}, but this program decodes by policy {DECODING_VERSION + 1}"
    ):
        resumed(stopped)


def other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)


def other_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9.9")


def other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")


@pytest.mark.parametrize(
    ("move", "named"),
    [(other_threads, "threads"), (other_torch, "torch"), (other_instructions, "instructions")],
)
def test_another_machine_is_refused_unless_told_otherwise(
    move: Callable[[pytest.MonkeyPatch], None], named: str, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(monkeypatch)
    with pytest.raises(
        UsageError, match=rf"started with {named} .* and now has {named} (77|9\.9\.9|ABACUS): .*--any-machine"
    ):
        resumed(stopped)
    resumed(stopped, resume=Resume.ANY_MACHINE)
    assert len(record_of(load_weights(stopped / BEST).weights).epochs) == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def make_newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(rb"format_version\":5", rb"format_version\":9"))


def make_strange(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(CHECKPOINT_KEY.encode(), CHECKPOINT_KEY[::-1].encode()))


def make_nonsense(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(rb"\"kaiming\"", rb"\"karting\""))


def reshape(path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors["network.fc8.weight"] = tensors["network.fc8.weight"].reshape(-1, 2)
    safetensors.torch.save_file(tensors, path, metadata=metadata)


def drop(path: Path) -> None:
    path.unlink()


def resealed(changes: dict[str, dict[str, object]], version: int = 4) -> Callable[[Path], None]:
    """Return a function that changes fields of a checkpoint and writes it with valid digests, in any format version."""

    def change(path: Path) -> None:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = msgspec.json.decode(file.metadata()[CHECKPOINT_KEY])
        for record, fields in changes.items():
            header[record].update(fields)
        if version < 3:
            del header["header_sha256"]
        else:
            header["header_sha256"] = "0" * 64
        text = msgspec.json.encode(header | {"format_version": version}).decode()
        text = text.replace(f'"header_sha256":"{"0" * 64}"', f'"header_sha256":"{sha256(text.encode())}"')
        path.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(path), {CHECKPOINT_KEY: text}))

    return change


def test_a_checkpoint_of_the_format_before_has_no_digest_of_its_header_and_is_resumed(
    stopped: Path, whole: Path
) -> None:
    resealed({}, version=2)(stopped / CHECKPOINT)
    resumed(stopped)
    assert_same_run(stopped, whole)


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize(
    ("position", "sentence"),
    [
        ({"step": -5}, "the position is epoch 1, step -5, but they start at epoch 1, step 0"),
        (
            {"step": 1_000_000_000},
            r"run: the checkpoint is at step 1,000,000,000, but an epoch of these images has 2 s",
        ),
        ({"epoch": -1}, "the position is epoch -1, step 1, but they start at epoch 1, step 0"),
        ({"epoch": 4}, r"the current epoch is 4, but the finished epochs are \[\]"),
        ({"best_epoch": -1}, "the best epoch is -1, but the current epoch is 1"),
        ({"best_epoch": 1}, "the best epoch is 1, but the current epoch is 1"),
        ({"epochs": [{**FIRST, "epoch": epoch} for epoch in (1, 2, 3)], "epoch": 4}, "the recipe has 2"),
        ({"seconds": -1.0}, "a time is negative"),
        ({"confusion": [[1, 2]]}, "the confusion matrix is not of 2 classes"),
    ],
)
def test_a_position_that_no_run_can_have_is_refused(
    position: dict[str, object], sentence: str, version: int, stopped: Path
) -> None:
    resealed({"position": position}, version)(stopped / CHECKPOINT)
    with pytest.raises(TrainingError, match=sentence):
        resumed(stopped)


def test_a_damaged_byte_of_a_checkpoints_header_is_refused(stopped: Path, tmp_path: Path) -> None:
    good = (stopped / CHECKPOINT).read_bytes()
    chance = random.Random(0)
    for place in chance.sample(range(8 + int.from_bytes(good[:8], "little")), 600):
        damaged = bytearray(good)
        damaged[place] ^= chance.randrange(1, 256)
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(TrainingError):
            load_tensors(tmp_path / "damaged", load_checkpoint(tmp_path / "damaged"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (reshape, r"is damaged: its tensors have changed since they were saved: SHA-256 was \w+, now \w+$"),
        (
            resealed({"recipe": {"epochs": 0}}),
            r"checkpoint\.safetensors: its header cannot be read: epochs is 0; it must be greater",
        ),
        (flip, r"is damaged: its tensors have changed since they were saved: SHA-256 was \w+, now \w+$"),
        (cut, "is not a safetensors file, or it is damaged: "),
        (
            make_newer,
            "checkpoint version 9 is newer than supported; this program reads checkpoint version 2, 3, 4 and 5$",
        ),
        (make_strange, "is not a checkpoint: it has no entry 'alexnet-deploy-checkpoint'$"),
        (make_nonsense, "it is damaged: its header has changed since it was saved: the digest does not match$"),
        (
            resealed({"recipe": {"initialisation": "karting"}}),
            "its header cannot be read: Invalid enum value 'karting'",
        ),
        (drop, r"checkpoint\.safetensors: no checkpoint to resume from: no such file$"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused(damage: Callable[[Path], None], sentence: str, stopped: Path) -> None:
    damage(stopped / CHECKPOINT)
    with pytest.raises(TrainingError, match=sentence):
        resumed(stopped)


def test_a_checkpoint_is_not_taken_for_weights(stopped: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"safetensors: this is a checkpoint for resuming; the weights are in the same folder"
    ):
        load_weights(stopped / CHECKPOINT)


def test_best_weights_that_are_of_another_epoch_are_refused(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(out, observer=Observer(on_progress=at_step(3, interrupt)))
    (out / BEST).unlink()
    with pytest.raises(TrainingError, match=r"weights\.safetensors: is not of epoch 1, the best epoch in checkpoint"):
        resumed(out)


def test_two_runs_do_not_train_in_one_directory(stopped: Path) -> None:
    with (
        holding(stopped),
        pytest.raises(TrainingError, match=r"run: another process is training there; choose another --out$"),
    ):
        resumed(stopped)
    resumed(stopped)


# On the command line


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text("epochs = 2\nbatch_size = 4\nlearning_rate = 0.01\n")
    return path


def signalled_in_step(number: int, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal in the middle of a step."""
    step, steps = Learner.step, []

    def noted(learner: Learner, *arguments: object, **options: object) -> torch.Tensor:
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), which)
        return step(learner, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "step", noted)


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_leave_and_resume_ends_with_the_same_bits(
    which: int, code: int, run: Command, data: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    begin = ("train", data, "--arch", "tiny", "--recipe", tiny_recipe)
    assert run(*begin, "--out", "whole").code == 0
    with monkeypatch.context() as patch:
        signalled_in_step(3, which, patch)
        outcome = run(*begin, "--out", "runs/cut")
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.endswith("interrupted; resume with `alexnet-deploy train --resume --out runs/cut`\n")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    position = load_checkpoint(Path("runs/cut", CHECKPOINT)).position
    assert (position.epoch, position.step) == (2, 1)
    assert Path("runs/latest").read_text() == "cut\n"
    # The newest run, with its own images and recipe.
    outcome = run("train", "--resume")
    assert outcome.code == 0
    assert "runs/cut: resuming in epoch 2 of 2, after step 1\n" in outcome.err
    assert outcome.out == f"runs/cut/{BEST}\n"
    assert_same_run(Path("whole"), Path("runs/cut"))
    outcome = run("train", "--resume", data, "--out", "runs/cut", "--arch", "tiny", "--recipe", tiny_recipe)
    assert outcome.code == 0
    assert "runs/cut: training has ended, after 2 epochs; only its report is written again\n" in outcome.err
    assert "training tiny on" not in outcome.err
    said = run("train", "--resume", "cut").refused(2)
    assert said == "cut: DATA is a folder of images; to resume this run, pass --out runs/cut"
    assert run("train", "--resume", "nothing").refused(2) == "nothing: there is no such file or folder"
    assert (
        run("train", "--resume", "--lr", "0.5")
        .refused(2)
        .startswith(
            f"runs/cut/{CHECKPOINT}: cannot resume: the run's recipe has learning_rate 0.01, but 0.5 was requested"
        )
    )


def test_a_run_without_a_finished_epoch_is_not_the_latest(
    run: Command, data: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled_in_step(1, signal.SIGINT, monkeypatch)
    assert run("train", data, "--arch", "tiny", "--recipe", tiny_recipe, "--out", "runs/cut").code == 130
    assert not Path("runs/latest").exists()
    assert run("export").refused(2) == "there is no runs/latest yet; `alexnet-deploy train` makes one"
    assert run("export", "cut").refused(2) == (
        "runs/cut/weights.safetensors: these weights are not trained: the run was interrupted in its first epoch; "
        "`alexnet-deploy train --resume --out runs/cut` resumes it"
    )


def test_one_command_starts_the_run_continues_it_and_leaves_a_finished_one(
    run: Command, data: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like restarts by a supervisor: killed before the first checkpoint, killed after it, complete."""
    begin = ("train", data, "--arch", "tiny", "--recipe", tiny_recipe)
    assert run(*begin, "--out", "whole").code == 0
    same_each_time = (*begin, "--out", "job", "--auto-resume")
    program = (
        "import os, signal, sys; from alexnet_deploy.train.loop import run_directory\n"
        "run_directory.save_checkpoint = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from alexnet_deploy.cli import main; main()"
    )
    killed = subprocess.run([sys.executable, "-c", program, *map(str, same_each_time)], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert Path("job", ".lock").exists()
    assert not Path("job", CHECKPOINT).exists()
    # As written by --log csv.
    Path("job", CSV).write_text("epoch\n")
    with monkeypatch.context() as patch:
        signalled_in_step(3, signal.SIGTERM, patch)
        assert run(*same_each_time).code == 143
    outcome = run(*same_each_time)
    assert outcome.code == 0
    assert "job: resuming in epoch 2 of 2, after step 1\n" in outcome.err
    assert_same_run(Path("whole"), Path("job"))
    outcome = run(*same_each_time)
    assert outcome.code == 0
    assert "job: training has ended, after 2 epochs; only its report is written again\n" in outcome.err
    assert_same_run(Path("whole"), Path("job"))


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """The names of all entries below a folder, and the bytes of files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([METRICS, "thesis.tex"], METRICS),
        ([CSV, "tensorboard/mine/notes.txt"], CSV),
        (["tensorboard/mine/notes.txt"], "tensorboard/mine"),
        ([".gitkeep"], ".gitkeep"),
        ([".mine.partial"], ".mine.partial"),
        ([BEST], BEST),
    ],
)
@pytest.mark.parametrize("has_data", [True, False])
def test_a_folder_that_is_not_a_run_is_left_as_it_is(
    names: list[str], first: str, has_data: bool, run: Command, data: Path
) -> None:
    for name in names:
        Path("job", name).parent.mkdir(parents=True, exist_ok=True)
        Path("job", name).write_text("mine")
    before = everything_in(Path("job"))
    said = run("train", data if has_data else "nosuch", "--arch", "tiny", "--out", "job", "--auto-resume").refused(2)
    if has_data:
        assert said == (
            f"job: contains {first} but no {CHECKPOINT}, so it is neither empty nor a run to resume; choose another "
            "--out"
        )
    assert everything_in(Path("job")) == before


MARK = ".alexnet-deploy-train"


@pytest.mark.parametrize("strange", ["thesis.tex", "tensorboard/mine/notes.txt", ".mine.partial", BEST])
def test_begun_run_with_a_file_of_somebody_else_is_left_as_it_is(strange: str, tmp_path: Path) -> None:
    for name in (MARK, METRICS, strange):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = everything_in(tmp_path)
    with pytest.raises(UsageError, match="neither empty nor a run to resume"):
        train(tmp_path, resume=Resume.UNBEGUN)
    assert everything_in(tmp_path) == before


def test_what_a_run_left_before_its_first_checkpoint_goes_once_training_begins(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [MARK, ".lock", METRICS, CSV, "tensorboard/events.out.tfevents.1.host", f".{CHECKPOINT}.abcdefgh.partial"]
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old" if name == METRICS else "")
    before = everything_in(tmp_path)
    # A request that is refused changes no file.
    assert "no such file or folder" in run("train", "nosuch", "--out", tmp_path, "--auto-resume").refused(2)
    with holding(tmp_path):
        said = run("train", "--out", tmp_path, "--auto-resume").refused(3)
        assert said == f"{tmp_path}: another process is training there; choose another --out"
        with pytest.raises(TrainingError, match="another process is training there"):
            train(tmp_path, resume=Resume.UNBEGUN)
    (tmp_path / ".lock").touch()
    assert everything_in(tmp_path) == before

    # A mount point cannot be removed, and contains lost+found on ext4.
    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(Path, "rmdir", busy_unless_within(tmp_path))
    train(tmp_path, resume=Resume.UNBEGUN)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"lost+found", METRICS, CHECKPOINT, BEST}
    assert len((tmp_path / METRICS).read_text().splitlines()) == SHORT.epochs


def busy_unless_within(place: Path) -> Callable[[Path], None]:
    remove = Path.rmdir

    def rmdir(path: Path) -> None:
        if path == place:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        remove(path)

    return rmdir


def no_memory(*_: object, **__: object) -> None:
    raise TrainingError("no memory")


@pytest.mark.parametrize("is_link", [False, True])
def test_an_empty_directory_stays_where_no_run_comes_of_it(
    is_link: bool, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = real = tmp_path / "volume"
    real.mkdir()
    if is_link:
        place = tmp_path / "link"
        place.symlink_to(real)
    kept = real.stat().st_ino
    assert run("train", "nosuch", "--out", place, "--auto-resume").code == 2
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "__init__", no_memory)
        with pytest.raises(TrainingError, match="no memory"):
            train(place, resume=Resume.UNBEGUN)
    assert (real.stat().st_ino, list(real.iterdir())) == (kept, [])
    train(place, resume=Resume.UNBEGUN)
    assert place.is_symlink() == is_link
    assert (real / BEST).is_file()
    assert real.stat().st_ino == kept


def test_a_run_that_fails_before_its_first_checkpoint_can_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "save_checkpoint", full)
        patch.setattr(Weights, "save", full)
        with pytest.raises(TrainingError, match="No space left on device"):
            train(tmp_path / "job", resume=Resume.UNBEGUN)
    assert {path.name for path in (tmp_path / "job").iterdir()} == {MARK, METRICS}
    train(tmp_path / "job", resume=Resume.UNBEGUN)
    assert_same_run(tmp_path / "whole", tmp_path / "job")


@pytest.mark.parametrize("option", ["--auto-resume", "--device=cpu"])
def test_a_file_is_no_place_for_a_run(option: str, run: Command, data: Path) -> None:
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    for name, kind in (("file", "a file"), ("link", "a broken link")):
        said = run("train", data, "--arch", "tiny", "--out", name, option).refused(2)
        assert said == f"{name}: is {kind}, not a directory; choose another --out"


def test_resuming_keeps_what_is_not_an_event_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "tensorboard"
    log = TensorBoardLog(folder)
    log.add(EpochMetrics(**FIRST))
    (folder / "notes.txt").write_text("mine")
    log.restart([EpochMetrics(**FIRST)])
    log.close()
    assert sorted(path.name.startswith("events.out.tfevents.") for path in folder.iterdir()) == [False, True]
    assert (folder / "notes.txt").read_text() == "mine"


TWICE = """
import os, signal
from alexnet_deploy.train.runtime.signals import stopping
with stopping() as stop_if_asked:
    os.kill(os.getpid(), signal.{0})
    print("once", flush=True)
    os.kill(os.getpid(), signal.{1})
    print("twice", flush=True)
"""


@pytest.mark.parametrize("names", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_the_process_at_once(names: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(*names)], capture_output=True, check=False, timeout=HANGS_AFTER_S, text=True
    )
    assert done.returncode == -getattr(signal, names[1])
    assert (done.stdout, done.stderr) == ("once\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--resume"], "there is no runs/*/checkpoint.safetensors yet; `alexnet-deploy train` makes one"),
        (["--resume", "--out", "x"], "x: there is no such run"),
        (["--any-machine"], "--any-machine needs --resume or --auto-resume"),
        (["--auto-resume"], "--auto-resume needs --out and replaces --resume; pass --out, and remove --resume"),
        (
            ["--auto-resume", "--resume", "--out", "x"],
            "--auto-resume needs --out and replaces --resume; pass --out, and remove --resume",
        ),
    ],
)
def test_resuming_nothing_is_refused(arguments: list[str], sentence: str, run: Command) -> None:
    outcome = run("train", *arguments)
    assert outcome.refused(int(str(outcome.code))) == sentence
    assert list(Path.cwd().iterdir()) == []


def test_a_full_disk_leaves_the_older_checkpoint_whole_and_the_run_goes_on_when_there_is_room(
    run: Command, data: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ("train", data, "--arch", "tiny", "--recipe", tiny_recipe)
    assert run(*begin, "--out", "whole").code == 0
    with monkeypatch.context() as patch:
        signalled_in_step(1, signal.SIGTERM, patch)
        assert run(*begin, "--out", "cut").code == 143
    kept = {path.name: path.read_bytes() for path in Path("cut").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        said = run("train", "--resume", "--out", "cut").refused(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said == (
        "cut: could not be written: File too large; the checkpoint of epoch 1, step 1 is intact and the weights of an "
        f"unfinished epoch 1 are in cut/{BEST}; raise the file size limit (ulimit -f), then run "
        "`alexnet-deploy train --resume --out cut`"
    )
    assert kept.keys() <= {path.name for path in Path("cut").iterdir()}
    assert Path("cut", CHECKPOINT).read_bytes() == kept[CHECKPOINT]
    assert run("train", "--resume", "--out", "cut").code == 0
    assert_same_run(Path("whole"), Path("cut"))


def test_a_disk_that_cannot_be_written_is_told_in_a_sentence(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who can write to any directory.
    kept = (stopped / CHECKPOINT).read_bytes()

    def read_only(*_: object, **__: object) -> tuple[int, str]:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    with pytest.raises(TrainingError, match=r"run: could not be written: Read-only file system; the checkpoint"):
        resumed(stopped)
    assert (stopped / CHECKPOINT).read_bytes() == kept
