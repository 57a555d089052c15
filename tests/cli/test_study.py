"""`alexnet-deploy study`."""

from pathlib import Path

import pytest
from commands import Run
from studies import write_study
from training import BLUE, RED, paint


def test_studies_are_listed_and_printed(run: Run) -> None:
    listed = run("study")
    assert listed.code == 0
    assert "\nlrn           Local response normalisation: with it, and without.\n" in listed.out
    assert "Krizhevsky et al. 2012, section 3.3" in listed.out
    printed = run("study", "lrn")
    assert printed.out.startswith("# Local response normalisation")
    assert 'remove = ["lrn"]' in printed.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "'nothing' is not a study; use one of augmentation, "),
        (("lrn", "--budget", "30m"), "study lrn: options need DATA; without it a study is only printed"),
        (("--seeds", "5"), "study NAME: options need DATA"),
        (("lrn", "gone"), "gone: there is no such file or folder"),
        (("lrn", ".", "--budget", "soon"), "--budget soon: expected a duration such as 90s, 30m or 2h"),
        (("lrn", ".", "--budget", "0m"), "--budget 0m: expected a duration"),
        (("lrn", ".", "--seeds", "0"), "--seeds: must be 1 or more, got 0"),
        (("lrn", ".", "--set", "lr=1"), "lr is not a recipe field"),
        (("lrn", ".", "--arch", "single_tower"), "no-lrn: single_tower has no layer lrn"),
    ],
)
def test_wrong_use_is_one_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in run("study", *arguments).refused(2)


def test_a_study_ends_in_its_table_and_its_files(run: Run, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    paint(tmp_path / "data", {"red": (RED,), "blue": (BLUE,)}, 4)
    done = run("study", study, "data", "--seeds", "2", "--set", "epochs=1", "--device", "cpu")
    assert done.code == 0
    assert "mine: least, 8 training images, 4 tested images, 2 seeds" in done.out
    assert "claim: Local response normalisation helps." in done.out
    assert "runs/no-lrn-1: 1 epochs" not in done.err
    assert "runs/no-lrn-1: 1 epoch, " in done.err
    assert "report: studies/mine/report.html" in done.err
    for name in ("report.html", "results.csv", "curves.csv", "study.json", "times.csv", "plan.json"):
        assert (tmp_path / "studies/mine" / name).exists()
    other = run("study", study, "data", "--seeds", "3", "--set", "epochs=1", "--device", "cpu")
    assert "studies/mine: holds another study: seeds was 2, now it is 3" in other.refused(2)
