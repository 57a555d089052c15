"""Links, pipes and directories in place of a command's working files are refused by name and left unchanged."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from odd_files import ODD, Stand, assert_untouched, hard_link, link, victim_in
from training import BLUE, NARROW, RECIPE, RED, memory_set, paint

from alexnet_deploy.core.errors import DataError, ImageErrorCode, TrainingError, UsageError
from alexnet_deploy.core.fs.run_files import LogKind
from alexnet_deploy.core.model.preprocessing import WARP
from alexnet_deploy.predict.output import _identity, open_row_file
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.row_formats import RowWriter
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.loop.record import Observer
from alexnet_deploy.train.loop.run_directory import holding
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.train.run import Resume, train


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return victim_in(tmp_path)


STANDS = pytest.mark.parametrize("stand", ODD)


def words(place: Path, stand: Stand) -> str:
    return re.escape(f"{place} is {ODD[stand]}, but this program needs its own file there; remove it")


# Rows


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """The hidden file of the rows until the output is complete."""
    with open_row_file(tmp_path / "out", RowWriter("jsonl", 1), "bundle", resume=False) as rows:
        place = rows.place
    (tmp_path / "out").unlink()
    return place


@STANDS
@pytest.mark.parametrize("resume", [False, True])
def test_rows_are_not_written_to_a_foreign_file(
    tmp_path: Path, victim: Path, partial: Path, stand: Stand, resume: bool
) -> None:
    stand(partial, victim)
    with (
        pytest.raises(UsageError, match=words(partial, stand)),
        open_row_file(tmp_path / "out", RowWriter("jsonl", 1), "bundle", resume=resume),
    ):
        pass
    assert os.path.lexists(partial)
    assert_untouched(victim)


@STANDS
def test_retried_rows_are_not_written_to_a_foreign_file(tmp_path: Path, victim: Path, stand: Stand) -> None:
    output, writer = tmp_path / "out", RowWriter("jsonl", 1)
    row = Prediction(path="a", top=(), error=ImageErrorCode.MISSING, message="there is no such file")
    output.write_text(writer.row(row))
    again = frozenset(("missing",))
    was = _identity(output)
    with open_row_file(output, writer, "b", resume=True, again=again) as rows:
        place = rows.place
        rows.write(row)
    # The replaced file has another identity than before.
    place = place.with_name(place.name.replace(was, _identity(output)))
    stand(place, victim)
    with (
        pytest.raises(UsageError, match=words(place, stand)),
        open_row_file(output, writer, "b", resume=True, again=again),
    ):
        pass
    assert_untouched(victim)


# Runs

SHORT = msgspec.structs.replace(RECIPE, epochs=2, batch_size=6)
IMAGES = memory_set()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its first epoch, with all its logs."""
    run = tmp_path_factory.mktemp("stopped") / "run"

    def stop(progress: object) -> None:
        if (run / "metrics.jsonl").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            IMAGES,
            NARROW,
            SHORT,
            run,
            pace=Pace(share=float("inf"), least_seconds=0.0),
            observer=Observer(logs=(LogKind.CSV,), on_progress=stop),
        )
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run that a test may modify."""
    (tmp_path / "run").mkdir()
    for path in stopped.iterdir():
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "run"


@STANDS
def test_a_foreign_file_is_not_used_as_lock(run: Path, victim: Path, stand: Stand) -> None:
    stand(run / ".lock", victim)
    with pytest.raises(TrainingError, match=words(run / ".lock", stand)) as caught:
        train(IMAGES, NARROW, SHORT, run, resume=Resume.SAME_MACHINE)
    assert "; remove the entry of that name, then run `alexnet-deploy train --resume" in str(caught.value)
    assert_untouched(victim)


def test_a_lock_that_another_process_holds_is_not_emptied(run: Path) -> None:
    (run / ".lock").write_bytes(b"written by hand")
    with holding(run):
        assert (run / ".lock").read_bytes() == b"written by hand"


@STANDS
@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", ".weights.next.safetensors"])
def test_a_resumed_run_writes_to_its_own_files_only(run: Path, victim: Path, stand: Stand, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    stand(run / name, victim)
    if stand.__name__ == "directory":
        with pytest.raises(TrainingError, match=words(run / name, stand)):
            train(IMAGES, NARROW, SHORT, run, resume=Resume.SAME_MACHINE)
    else:
        train(IMAGES, NARROW, SHORT, run, resume=Resume.SAME_MACHINE)
        assert not (run / name).is_symlink()
    assert_untouched(victim)


@pytest.mark.parametrize("stand", [link, hard_link])
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "weights.safetensors"])
def test_a_resumed_run_replaces_a_linked_file_without_changing_its_target(
    run: Path, tmp_path: Path, stand: Stand, name: str
) -> None:
    kept = tmp_path / "kept"
    (run / name).rename(kept)
    before = kept.read_bytes()
    stand(run / name, kept)
    train(IMAGES, NARROW, SHORT, run, resume=Resume.SAME_MACHINE)
    assert kept.read_bytes() == before


@STANDS
@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
def test_epoch_metrics_are_appended_to_the_runs_own_file_only(
    tmp_path: Path, victim: Path, stand: Stand, name: str
) -> None:
    run = tmp_path / "new"

    def spoil(progress: object) -> None:
        if not os.path.lexists(run / name):
            stand(run / name, victim)

    with pytest.raises(TrainingError, match=words(run / name, stand)):
        train(
            IMAGES,
            NARROW,
            SHORT,
            run,
            pace=Pace(share=0.0, least_seconds=float("inf")),
            observer=Observer(logs=(LogKind.CSV,), on_progress=spoil),
        )
    assert_untouched(victim)


def test_event_files_are_written_to_the_runs_own_folder_only(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/keep").write_bytes(b"")
    (run / "tensorboard").symlink_to(tmp_path / "others")
    with pytest.raises(TrainingError, match="tensorboard is a symbolic link, but this program needs its own directory"):
        train(IMAGES, NARROW, SHORT, run, resume=Resume.SAME_MACHINE)
    assert [path.name for path in (tmp_path / "others").iterdir()] == ["keep"]


# Packs


@pytest.fixture
def packing(tmp_path: Path) -> Callable[[], object]:
    root = paint(tmp_path / "data", {"blue": (BLUE,), "red": (RED,)})
    return lambda: pack(find_images(root), tmp_path / "one.pack", WARP)


@STANDS
@pytest.mark.parametrize("name", ["plan.json", "journal.jsonl", "pack/pictures.u8", "pack/sources.txt"])
def test_a_pack_is_written_to_its_own_files_only(
    tmp_path: Path, victim: Path, packing: Callable[[], object], stand: Stand, name: str
) -> None:
    place = tmp_path / ".one.pack.partial" / name
    place.parent.mkdir(parents=True)
    stand(place, victim)
    with pytest.raises(DataError, match=words(place, stand)):
        packing()
    assert not (tmp_path / "one.pack").exists()
    assert_untouched(victim)


@pytest.mark.parametrize("name", ["", "pack"])
def test_packing_uses_its_own_directories_only_and_removes_nothing_elsewhere(
    tmp_path: Path, packing: Callable[[], object], name: str
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "keep").write_bytes(b"precious")
    place = tmp_path / ".one.pack.partial" / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(others)
    with pytest.raises(DataError, match=f"{place} is a symbolic link, but this program needs its own directory"):
        packing()
    assert [path.name for path in others.iterdir()] == ["keep"]


@pytest.mark.parametrize("name", ["labels.i32", "pack.json"])
@STANDS
def test_leftovers_of_an_interrupted_publication_are_unlinked_not_followed(
    tmp_path: Path, victim: Path, packing: Callable[[], object], stand: Stand, name: str
) -> None:
    place = tmp_path / ".one.pack.partial/pack" / name
    place.parent.mkdir(parents=True)
    stand(place, victim)
    if stand.__name__ == "directory":
        with pytest.raises(DataError, match=words(place, stand)):
            packing()
    else:
        packing()
        assert not (tmp_path / "one.pack" / name).is_symlink()
    assert_untouched(victim)
