"""The images of a study: what is refused before a run begins, and when a study is resumed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from studies import STUDY, request_of, write_study

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.pipeline.study.plan import load_plan
from alexnet_deploy.pipeline.study.running.runs import Workplace
from alexnet_deploy.pipeline.study.study import Studied, run_study
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.pack.writer import pack


def studied(study: Path, data: Path, out: Path, **changes: Any) -> Studied:
    return run_study(request_of(study, data, **changes), out, Workplace(say=say_nothing))


@pytest.mark.parametrize(
    ("was", "now", "changes", "words"),
    [
        ("[[variants]]", "held_out = 6\n[[variants]]", {}, "holds out 6 images, but there are 6 validation images"),
        ('remove = ["lrn"]', "images = 0.05", {}, "no-lrn: none of its 1 training image is of class blue"),
        ("", "", {"images": 25}, "--images 25: there are 24 training images"),
    ],
)
def test_too_few_images_are_refused_before_there_is_a_plan(
    tmp_path: Path, painted: Path, was: str, now: str, changes: dict[str, int], words: str
) -> None:
    study = write_study(tmp_path, STUDY.replace(was, now, 1))
    with pytest.raises(UsageError, match=words):
        studied(study, painted, tmp_path / "out", **changes)
    assert load_plan(tmp_path / "out") is None
    assert not (tmp_path / "out/runs").exists()


def test_images_packed_for_another_study_are_not_used(tmp_path: Path, painted: Path) -> None:
    """An interrupted study, or one whose budget was too short, leaves images.pack without a plan."""
    study, out = write_study(tmp_path), tmp_path / "out"
    with pytest.raises(UsageError, match="is too short"):
        studied(study, painted, out, budget_seconds=1e-3)
    moved = shutil.copytree(painted, tmp_path / "moved")
    with pytest.raises(UsageError, match=r"out/images.pack: holds other images than .*moved"):
        studied(study, moved, out, seeds=1)
    with pytest.raises(UsageError, match=r"was packed with --resize .*, but this study needs .* --decode scaled"):
        studied(study, painted, out, seeds=1, settings={"decode": "scaled"})
    assert studied(study, painted, out, seeds=1).result.num_train == 24


def test_a_packed_set_that_was_replaced_is_refused(tmp_path: Path, painted: Path) -> None:
    study, data = write_study(tmp_path), tmp_path / "data.pack"
    policy = ImagePolicy(resize="shorter-side")
    pack(find_images(painted), data, policy)
    studied(study, data, tmp_path / "out", seeds=1, settings={"epochs": 1})
    shutil.rmtree(data)
    fewer = shutil.copytree(painted, tmp_path / "fewer")
    next(fewer.rglob("*.png")).unlink()
    pack(find_images(fewer), data, policy)
    with pytest.raises(DataError, match=r"data.pack: holds other images than when the study began"):
        studied(study, data, tmp_path / "out", seeds=1, settings={"epochs": 1})


def test_a_file_is_no_place_for_a_study(tmp_path: Path, painted: Path) -> None:
    (tmp_path / "out").write_text("dear")
    with pytest.raises(UsageError, match="out: is a file, not a directory"):
        studied(write_study(tmp_path), painted, tmp_path / "out")
