"""`alexnet-deploy import`, from somebody else's file to predictions."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from commands import Run
from foreign_torch import TORCHVISION, state_dict
from networks import LABELS, narrowed, saved, separating_weights

from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights


@pytest.fixture(scope="module")
def torchvision() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["torchvision"]))


@pytest.fixture
def checkpoint(torchvision: Weights, tmp_path: Path) -> Path:
    torch.save({"state_dict": state_dict(torchvision, TORCHVISION)}, tmp_path / "mine.pth")
    return Path("mine.pth")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_checkpoint_goes_the_whole_road(precision: str, checkpoint: Path, images: Path, run: Run) -> None:
    imported = run("import", checkpoint, "--classes", ",".join(LABELS))
    assert imported.code == 0, imported
    assert imported.out.startswith("runs/torchvision-custom-imported-")
    said = imported.err.splitlines()
    assert said[0].startswith("mine.pth: torch checkpoint, 16 tensors, SHA-256 ")
    assert "recognised: torchvision-custom, 4 classes, 119,468 parameters" in said
    assert any(
        line.startswith("proved: the file's layers, rebuilt in torch, and our network agree on 16") for line in said
    )
    assert said[-1] == "next: alexnet-deploy export"
    options = ("--calibrate", images) if precision == "int8" else ()
    exported = run("export", "--precision", precision, *options)
    assert exported.code == 0, exported
    bundle = exported.out.strip()
    checked = run("check", bundle, "--weights", imported.out.strip())
    assert checked.code == 0, checked
    predicted = run("predict", images, "--format", "jsonl")
    assert predicted.code == 0, predicted
    rows = [json.loads(line) for line in predicted.out.splitlines()]
    assert len(rows) == 12
    assert {row["top"][0]["label"] for row in rows} <= set(LABELS)
    manifest = json.loads(run("inspect", bundle, "--json").out)["manifest"]
    assert manifest["provenance"]["imported"]["file"] == "mine.pth"
    assert "imported from mine.pth: torch checkpoint, SHA-256 " in run("inspect", bundle).out


def test_what_an_import_was_is_shown(checkpoint: Path, run: Run) -> None:
    assert run("import", checkpoint, "--out", "my weights").err.splitlines()[-1] == (
        "next: alexnet-deploy export 'my weights'"
    )
    facts = json.loads(run("inspect", "my weights", "--json").out)
    assert (facts["kind"], facts["training"]) == ("weights", None)
    assert facts["origin"]["file"] == "mine.pth"
    assert [found["subject"] for found in facts["origin"]["assumptions"]][:2] == ["architecture", "input size"]
    shown = run("inspect", "my weights/weights.safetensors").out
    assert f"imported from mine.pth: torch checkpoint, SHA-256 {facts['origin']['sha256']}\n" in shown
    assert "assumed       channel order RGB (as in torchvision's AlexNet)\n" in shown
    assert "agreement     with the file's layers, rebuilt in torch, on 16 images: probabilities within " in shown


def test_options_say_what_the_file_does_not(checkpoint: Path, run: Run) -> None:
    Path("labels.txt").write_text("a\nb\nc\nd\n")
    options = "--arch my-net --channel-order BGR --mean 104,117,123 --scale 1/58 --resize warp --labels labels.txt"
    outcome = run("import", checkpoint, *shlex.split(options), "--out", "one")
    assert outcome.code == 0, outcome
    facts = json.loads(run("inspect", "one", "--json").out)
    assert facts["preprocessing"] == {
        "resize": "warp",
        "channel_order": "BGR",
        "mean": [104.0, 117.0, 123.0],
        "scale": [1 / 58] * 3,
    }
    assert (facts["labels"], facts["architecture"]["name"]) == (["a", "b", "c", "d"], "my-net")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mean 1,2", "--mean 1,2: 2 numbers, expected red, green and blue"),
        ("--scale 1/0", "--scale 1/0: must be numbers separated by commas"),
        ("--lrn 5,1e-4", "--lrn 5,1e-4: expected SIZE,ALPHA,BETA,K, such as 5,1e-4,0.75,1"),
        ("--lrn 4,1e-4,0.75,1", "--lrn: LRN: size must be odd and 1 to 15, got 4"),
        ("--scale 0", "--scale: must be above 0, got 0, 0, 0"),
        ("--arch 'my net'", "--arch: 'my net' is not a valid name for an architecture or a layer; use 1 to 64 letters"),
        ("--mean-image channels", "--mean-image channels: there is no mean image; give one with --mean FILE"),
        ("--classes ''", "mine.pth: 1 label for 4 classes; correct --labels or --classes"),
        ("--lrn 5,1e-4,0.75,1", "mine.pth: its network has no LRN, so --lrn does not apply"),
        ("--labels nowhere.txt", "nowhere.txt: cannot be read: No such file or directory"),
        ("--labels a --classes b", "--labels and --classes both name the classes; give one of them"),
        ("--out mine.pth", "mine.pth: already exists; choose another --out"),
        ("--out runs/latest", "runs/latest: a file called latest names the newest entry of its folder"),
    ],
)
def test_wrong_use_is_refused(options: str, message: str, checkpoint: Path, run: Run) -> None:
    assert run("import", checkpoint, *shlex.split(options)).refused(2).startswith(message)
    assert not Path("runs").exists()


def test_labels_of_another_number_are_refused(checkpoint: Path, run: Run) -> None:
    said = "mine.pth: 2 labels for 4 classes; correct --labels or --classes"
    assert run("import", checkpoint, "--classes", "a,b").refused(2) == said


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa, b\r\nc\r\nd\r\ne\r\n", b"a, b\n c\nd \ne\n\n\n"])
def test_a_list_of_classes_is_read_as_people_write_it(content: bytes, checkpoint: Path, run: Run) -> None:
    Path("labels.txt").write_bytes(content)
    assert run("import", checkpoint, "--labels", "labels.txt", "--out", "one").code == 0
    assert json.loads(run("inspect", "one", "--json").out)["labels"] == ["a, b", "c", "d", "e"]
    assert run("import", checkpoint, "--classes", "hot dog, Käse,猫 ,x", "--out", "two").code == 0
    assert json.loads(run("inspect", "two", "--json").out)["labels"] == ["hot dog", "Käse", "猫", "x"]


def test_a_file_that_is_not_there_is_wrong_use(run: Run) -> None:
    assert run("import", "nothing.pth").refused(2) == "nothing.pth: there is no such file or folder"


def test_the_newest_run_is_not_imported(checkpoint: Path, run: Run) -> None:
    assert run("import", checkpoint).code == 0
    said = "runs/latest: this is a run, which needs no import; `alexnet-deploy export runs/latest` exports it"
    assert run("import", "runs/latest").refused(3) == said


def test_our_own_weights_are_not_imported(torchvision: Weights, run: Run) -> None:
    saved(torchvision, Path("ours.safetensors"))
    said = run("import", "ours.safetensors").refused(3)
    assert said == "ours.safetensors: this is a file of alexnet-deploy itself; use it directly"
