"""metrics.csv and TensorBoard's event files have the same values as metrics.jsonl, once per epoch."""

import csv
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from commands import Run as Command
from training import ALWAYS, NARROW, RECIPE, at_step, interrupt, memory_set

from alexnet_deploy.core.fs.run_files import CSV, TENSORBOARD, LogKind
from alexnet_deploy.core.model.weights import EpochMetrics
from alexnet_deploy.train.loop.logs import CsvLog
from alexnet_deploy.train.loop.record import Observer
from alexnet_deploy.train.loop.run_directory import METRICS
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.run import Resume, train

NAMES = EpochMetrics.__struct_fields__
EACH_KIND = pytest.mark.parametrize(
    "kinds",
    [
        pytest.param([LogKind.CSV], id="csv"),
        pytest.param(
            list(LogKind),
            id="both",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("tensorboard") is None, reason="needs the extra [tensorboard]"
            ),
        ),
    ],
)


def in_jsonl(run: Path) -> list[EpochMetrics]:
    return [msgspec.json.decode(line, type=EpochMetrics) for line in (run / METRICS).read_bytes().splitlines()]


def in_csv(run: Path) -> list[EpochMetrics]:
    with (run / CSV).open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(NAMES)
    return [msgspec.convert(dict(zip(NAMES, row, strict=True)), EpochMetrics, strict=False) for row in rows]


def in_tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((run / TENSORBOARD).iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def assert_logs_agree(run: Path, num_epochs: int, kinds: Sequence[LogKind]) -> None:
    epochs = in_jsonl(run)
    assert [metrics.epoch for metrics in epochs] == list(range(1, num_epochs + 1))
    assert in_csv(run) == epochs
    if LogKind.TENSORBOARD in kinds:
        found = in_tensorboard(run)
        assert found.keys() == set(NAMES) - {"epoch"}
        for name, values in found.items():
            wanted = [(metrics.epoch, pytest.approx(getattr(metrics, name), rel=1e-6)) for metrics in epochs]
            assert values == wanted


# An epoch has three steps: two interruptions, before the first epoch's end and after it.
@EACH_KIND
@pytest.mark.parametrize("step", [2, 5])
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_resumed_run_continues_its_logs_without_being_told(
    tmp_path: Path, step: int, is_killed: bool, kinds: list[LogKind]
) -> None:
    run, recipe = tmp_path / "run", msgspec.structs.replace(RECIPE, epochs=3)
    data = memory_set()
    with pytest.raises(KeyboardInterrupt):
        train(
            data, NARROW, recipe, run, pace=ALWAYS, observer=Observer(logs=kinds, on_progress=at_step(step, interrupt))
        )
    if is_killed:
        # Epochs that are in no checkpoint, and an incomplete line.
        ahead = EpochMetrics(**{**dict.fromkeys(NAMES, 0.5), "epoch": 3})  # type: ignore[arg-type]
        log = CsvLog(run / CSV)
        log.add(ahead)
        (run / CSV).write_bytes((run / CSV).read_bytes() + b"4,0.")
    train(data, NARROW, recipe, run, pace=Pace(least_seconds=1e9), resume=Resume.SAME_MACHINE)
    assert_logs_agree(run, 3, kinds)


@EACH_KIND
def test_train_says_where_the_metrics_are(drawn: Path, run: Command, kinds: list[LogKind]) -> None:
    outcome = run("train", drawn, "--arch", "tiny", "--epochs", "1", "--out", "r", *(f"--log={kind}" for kind in kinds))
    assert outcome.code == 0, outcome
    names = [METRICS, CSV, *([TENSORBOARD] if LogKind.TENSORBOARD in kinds else [])]
    assert f"metrics per epoch: {', '.join(f'r/{name}' for name in names)}\n" in outcome.err
    assert_logs_agree(Path("r"), 1, kinds)


def test_tensorboard_that_is_not_installed_is_refused_at_the_start(
    drawn: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    said = run("train", drawn, "--arch", "tiny", "--log", "tensorboard").refused(3)
    assert said.startswith("this command needs tensorboard, which is not installed; `pip install ")
    assert list(Path.cwd().iterdir()) == []
