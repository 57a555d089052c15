"""A disk that is too small is reported before the images are read; a disk that fills up loses no saved file."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S
from commands import Run as Command
from training import NARROW, RECIPE, Run, are_equal, memory_set, record_of, trained

from alexnet_deploy.core.errors import TrainingError
from alexnet_deploy.core.fs.room import missing_room, try_to_write
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.train.data import scan as dataset
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, load_checkpoint
from alexnet_deploy.train.loop.run_directory import BEST, METRICS, RunDirectory
from alexnet_deploy.train.run import Resume, train


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))


FILLED = """
import math, resource, sys
from pathlib import Path
from training import ALWAYS, NARROW, RECIPE, memory_set
from alexnet_deploy.core.errors import TrainingError
from alexnet_deploy.train.loop.record import Observer
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.run import train

def fill(now=None):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))

pace = ALWAYS
if sys.argv[3] == "from the start":
    pace = Pace(least_seconds=math.inf)
    fill()
try:
    train(
        memory_set(), NARROW, RECIPE, Path(sys.argv[1]), pace=pace,
        observer=Observer(on_progress=lambda now: fill() if now.finished else None),
    )
except TrainingError as error:
    print(error)
"""


def filled(out: Path, limit: int, when: str) -> str:
    """Train in a process with a limit on file sizes; return its error."""
    return subprocess.run(
        [sys.executable, "-c", FILLED, out, str(limit), when],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANGS_AFTER_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(memory_set(), NARROW, RECIPE, tmp_path_factory.mktemp("whole") / "run").parent


def between(whole: Path) -> int:
    """A size limit that the weights fit in and the checkpoint does not."""
    return ((whole / BEST).stat().st_size + (whole / CHECKPOINT).stat().st_size) // 2


def test_a_first_checkpoint_that_does_not_fit_leaves_the_weights_under_their_name(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    best_epoch = record_of(load_weights(whole / BEST).weights).best_epoch
    said = filled(out, between(whole), "from the start")
    assert said == (
        f"{out}: could not be written: File too large; the weights of epoch {best_epoch} are in {out / BEST}, but "
        "there is no checkpoint yet; raise the file size limit (ulimit -f), then train again into another "
        "--out\n"
    )
    assert {path.name for path in out.iterdir()} == {BEST, METRICS}
    assert are_equal(load_weights(out / BEST).weights, load_weights(whole / BEST).weights)


def test_a_later_checkpoint_that_does_not_fit_leaves_the_older_one_and_the_new_weights(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = filled(out, between(whole), "after an epoch")
    position = load_checkpoint(out / CHECKPOINT).position
    assert (position.epoch, position.best_epoch) == (1, 0)
    assert said == (
        f"{out}: could not be written: File too large; the checkpoint of epoch 1, step {position.step} is intact and "
        f"the weights of epoch 1 are in {out / BEST}; raise the file size limit (ulimit -f), then run "
        f"`alexnet-deploy train --resume --out {out}`\n"
    )
    train(memory_set(), NARROW, RECIPE, out, resume=Resume.SAME_MACHINE)
    assert {path.name for path in out.iterdir()} == {BEST, CHECKPOINT, METRICS}
    for name in (BEST, CHECKPOINT):
        assert (out / name).stat().st_size == pytest.approx((whole / name).stat().st_size, abs=200)
    assert load_checkpoint(out / CHECKPOINT).tensors_sha256 == load_checkpoint(whole / CHECKPOINT).tensors_sha256


def test_where_nothing_fits_it_is_said_that_nothing_is_saved(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "no weights and no checkpoint are saved yet" in filled(out, 5000, "from the start")
    # With the mark of a run that may start there again.
    assert {path.name for path in out.iterdir()} == {METRICS, ".alexnet-deploy-train"}


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        {"momentum": 0.0},
        {"optimiser": "adamw", "learning_rate": 0.001},
        {"ema_decay": 0.9},
    ],
)
def test_the_room_that_is_asked_for_is_twice_what_the_files_take(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    run: Run = trained(honest, tmp_path / "run", epochs=1, **changes)
    taken = 2 * sum((run.directory / name).stat().st_size for name in (BEST, CHECKPOINT))
    architecture = NARROW.with_num_classes(2)
    other = RunDirectory(path=tmp_path / "other")
    with_free(monkeypatch, taken)
    with pytest.raises(
        TrainingError, match=r"other: needs [0-9.]+ MB of disk space, but only [0-9.]+ MB is free; free some space"
    ):
        other.check_room(architecture, run.recipe)
    with_free(monkeypatch, taken + 4 * 2**15)
    other.check_room(architecture, run.recipe)
    # Existing files are replaced: only the new ones need space.
    with_free(monkeypatch, taken // 2 + 4 * 2**15)
    RunDirectory(path=run.directory).check_room(architecture, run.recipe)


def test_a_small_disk_and_a_folder_that_cannot_be_written_are_refused_before_the_images_are_read(
    drawn: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(*arguments: object) -> None:
        raise AssertionError("the images were read")

    monkeypatch.setattr(dataset, "look_at_each", reads)
    Path("file").write_bytes(b"")
    assert run("train", drawn, "--arch", "tiny", "--out", "file/run").refused(3) == (
        "file/run: cannot be written: Not a directory"
    )
    with_free(monkeypatch, 1_000_000)
    assert (
        run("train", drawn, "--arch", "tiny")
        .refused(3)
        .endswith("MB of disk space, but only 1.0 MB is free; free some space or choose another place")
    )
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_a_survey_that_fails_leaves_no_directory(run: Command, tmp_path: Path) -> None:
    for side in ("train", "val"):
        for name in ("one", "other"):
            (tmp_path / "data" / side / name).mkdir(parents=True)
            (tmp_path / "data" / side / name / "0.jpg").write_bytes(b"no image")
    assert run("train", tmp_path / "data", "--arch", "tiny").code == 3
    assert not Path("runs").exists()


def test_a_finished_run_is_resumed_on_a_full_disk(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    with_free(monkeypatch, 0)
    assert train(memory_set(), NARROW, RECIPE, out, resume=Resume.SAME_MACHINE) == out / BEST


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    try_to_write(tmp_path / "runs/one")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    try_to_write(tmp_path / "runs/one")
    assert list((tmp_path / "runs").iterdir()) == []
    with pytest.raises(OSError, match="Not a directory") as caught:
        try_to_write(Path("/dev/null/run"))
    assert caught.value.errno == errno.ENOTDIR


def test_room_is_that_of_the_nearest_directory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_room(tmp_path / "a/b", 1) is None
    with_free(monkeypatch, 2_000_000_000)
    assert missing_room(Path("a/b"), 2_000_000_000) is None
    assert missing_room(Path("a/b"), 2_500_000_000) == (
        "a/b: needs 2.5 GB of disk space, but only 2.0 GB is free; free some space or choose another place"
    )
