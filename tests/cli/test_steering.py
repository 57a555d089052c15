"""Names and labels with terminal control characters are escaped everywhere they are printed."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Run
from networks import saved
from report_pages import parity_row

from alexnet_deploy.cli.terminal import say, stages
from alexnet_deploy.core.bundle.manifest import ParityRow
from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.inspection.describe import parity_table

EVIL = "x\x1b]0;owned\x07\u202e\x9b31m"
SHOWN = r"x\x1b]0;owned\x07\u202e\x9b31m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def check_harmless(*texts: str) -> None:
    for text in texts:
        assert all(line.isprintable() for line in text.split("\n"))
        assert SHOWN in text


def test_an_error_line_is_one_line_of_plain_text(run: Run) -> None:
    outcome = run("check", f"{EVIL}\nerror: forged")
    check_harmless(outcome.err)
    assert outcome.err.count("\n") == 1


def test_inspect_prints_weights_as_plain_text(run: Run, loaded: LoadedWeights) -> None:
    weights = loaded.weights
    # Labels may not contain line breaks, but may contain other control characters.
    evil = replace(weights, labels=(EVIL, *weights.labels[1:]), tools={"x": f"1{EVIL}\n"})
    path = saved(evil, Path("evil.safetensors")).path
    outcome = run("inspect", path)
    check_harmless(outcome.out)
    plain = run("inspect", loaded.path).out
    assert outcome.out.count("\n") == plain.count("\n")
    assert json.loads(run("inspect", path, "--json").out)["labels"][0] == EVIL


def test_cells_and_verdicts_cannot_forge_a_table_row() -> None:
    evil = f"{EVIL}\nopenvino 2026.4.1  passed"
    row: ParityRow = parity_row(version=evil, arithmetic=evil, images=evil, failures=(evil,))
    table = parity_table([row])
    check_harmless(table)
    assert table.count("\n") == 1


def test_images_that_train_skips_are_named_in_plain_text(run: Run, tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", num_train=2, num_validation=1)
    folder = next(path for path in (tmp_path / "data/train").iterdir())
    (folder / f"{EVIL}\nskipped, empty: forged.jpg").write_text("no image")
    outcome = run("train", "data", "--arch", "tiny", "--epochs", 1, "--batch-size", 4, "--out", "one")
    assert outcome.code == 0, outcome.err
    check_harmless(outcome.err)
    assert sum(line.startswith("skipped, ") for line in outcome.err.splitlines()) == 1
    check_harmless(run("inspect", "one/weights.safetensors").out)


@pytest.mark.parametrize("row_format", ["table", "jsonl", "csv"])
def test_rows_are_plain_text_on_a_terminal_and_unescaped_for_a_program(
    row_format: str, run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(EVIL).touch()
    to_a_program = run("predict", EVIL, "--format", row_format).out
    assert (EVIL in to_a_program.replace(r"\u001b", "\x1b").replace(r"\u0007", "\x07")) == (row_format != "table")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    run("predict", EVIL, "--format", row_format)
    text = screen.getvalue()
    assert text
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_line_and_a_stage_are_plain_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    say(f"{EVIL}\nerror: forged")
    with stages() as stage:
        stage(f"{EVIL}\nerror: forged")
    said = capsys.readouterr().err
    check_harmless(said)
    assert said.count("\n") == 2
