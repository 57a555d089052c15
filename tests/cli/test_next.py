"""The `next:` command that a command prints works as printed, in the same directory and in a shell."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from commands import Outcome, Run

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.inspection.describe import describe_facts
from alexnet_deploy.inspection.facts import RunFacts, inspect_path
from alexnet_deploy.pipeline import demo

QUICK = ["--arch", "tiny", "--epochs", "1", "--batch-size", "4"]


def follow(outcome: Outcome, run: Run) -> Outcome:
    """Run the `next:` command in the last line of the output."""
    assert outcome.code == 0, outcome
    last = outcome.err.splitlines()[-1]
    assert last.startswith("next: alexnet-deploy "), outcome.err
    done = run(*shlex.split(last)[2:])
    assert done.code == 0, (last, done)
    return done


def test_next_commands_lead_from_training_to_prediction(run: Run, data: Path) -> None:
    trained = run("train", data, *QUICK)
    exported = follow(trained, run)
    assert exported.err.splitlines()[-1] == "next: alexnet-deploy predict data/val/"
    assert follow(exported, run).out.startswith("data/val/")
    checked = run("check")
    assert follow(checked, run).out.startswith("data/val/")
    Path("images").symlink_to(data / "val")
    assert run("check").err.splitlines()[-1] == "next: alexnet-deploy predict images/"


def test_names_with_spaces_are_quoted_for_the_shell(run: Run, data: Path) -> None:
    shutil.move(data, "my data")
    trained = run("train", "my data", *QUICK, "--out", "my runs/the first")
    exported = follow(trained, run)
    assert exported.code == 0
    elsewhere = run("export", "my runs/the first", "--out", "my bundles/one.bundle")
    assert elsewhere.err.splitlines()[-1] == (
        "next: alexnet-deploy predict 'my data/val/' --bundle 'my bundles/one.bundle'"
    )
    follow(elsewhere, run)
    packed = run("pack", "my data", "my pack")
    assert packed.err.splitlines()[-1] == "next: alexnet-deploy train 'my pack'"


def test_pack_names_a_training_command_that_works(run: Run, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    packed = run("pack", data, "drawn.pack")
    last = packed.err.splitlines()[-1]
    assert last == "next: alexnet-deploy train drawn.pack"
    trained = run(*shlex.split(last)[2:], *QUICK)
    # The weights name a packed set, which contains no image files.
    exported = follow(trained, run)
    assert re.fullmatch(r"next: alexnet-deploy check \S+\.bundle", exported.err.splitlines()[-1])
    shutil.rmtree(data)
    checked = follow(exported, run)
    assert "next: " not in checked.err


@pytest.mark.rtx
def test_build_names_a_check_command_that_works(run: Run, latest: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    follow(run("build", "--plan", "tensorrt-rtx"), run)


def test_demo_ends_with_a_command_that_works(
    run: Run, loaded: LoadedWeights, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(out: Path, **_: object) -> demo.DemoResult:
        out.mkdir()
        draw_folder(out / "drawn", num_train=1, num_validation=1)
        made = out / "bundles/demo-fp32.bundle"
        shutil.copytree(bundle.path, made)
        return demo.DemoResult(
            report=out / "report.html", bundle=made, images=out / "drawn/val", accuracy=1, num_images=4, seconds=1
        )

    monkeypatch.setattr(demo, "run_demo", quick)
    done = follow(run("demo"), run)
    assert done.out.count("\n") == 4


def test_inspect_of_a_run_names_a_command_that_works(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", data, "--arch", "tiny", "--epochs", 2, "--batch-size", 4, "--out", "runs/whole").code == 0
    facts = inspect_path(Path("runs/whole"))
    assert isinstance(facts, RunFacts)
    assert (facts.epochs, facts.epochs_done, facts.is_finished) == (2, 2, True)
    assert facts.next == "alexnet-deploy export runs/whole"
    assert run(*shlex.split(facts.next)[1:]).code == 0
    for path in (facts.weights, facts.checkpoint, facts.metrics, facts.report):
        assert path is not None
        assert Path(path).is_file()
    assert f"weights       {facts.weights}\n" in describe_facts(facts)
    assert os.path.relpath(facts.data) == "data"
