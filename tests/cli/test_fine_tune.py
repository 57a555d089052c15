"""`alexnet-deploy train --from`, from another program's file to the provenance of a bundle."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Run
from foreign_torch import TORCHVISION, state_dict
from networks import LABELS, narrowed, saved, separating_weights

import alexnet_deploy
from alexnet_deploy.core.fs.files import sha256_of_file
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights, load_weights
from alexnet_deploy.export.importing.assume import Overrides
from alexnet_deploy.pipeline.pretrained.importing import understand, weights_of

SHORT = ("--epochs", 1, "--set", "warmup_epochs=0", "--batch-size", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def torchvision() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["torchvision"]))


@pytest.fixture
def checkpoint(torchvision: Weights, tmp_path: Path) -> Path:
    torch.save({"state_dict": state_dict(torchvision, TORCHVISION)}, tmp_path / "mine.pth")
    return Path("mine.pth")


@pytest.fixture
def own(torchvision: Weights, tmp_path: Path) -> Path:
    """Weights of the classes of the drawn images, in another order."""
    saved(torchvision, tmp_path / "own.safetensors")
    return Path("own.safetensors")


def test_another_programs_file_is_imported_with_its_proof_and_fine_tuned(
    checkpoint: Path, drawn: Path, run: Run
) -> None:
    tuned = run("train", drawn, "--from", checkpoint, "--freeze", "conv1..conv5", *SHORT, "--out", "run")
    assert tuned.code == 0, tuned
    digest = sha256_of_file(checkpoint)
    said = tuned.err.splitlines()
    assert any(line.startswith("proved: the file's layers, rebuilt in torch, and our network agree") for line in said)
    assert f"starting from mine.pth, SHA-256 {digest[:12]}" in said
    assert "fc8 is new: the images have other classes than mine.pth" in said
    assert any(line.startswith("frozen: conv1, conv2, conv3, conv4, conv5; ") for line in said)
    assert "training torchvision-custom on cpu, recipe fine-tune, 1 epoch" in said

    source = weights_of(understand(checkpoint, Overrides()))
    weights = load_weights(Path("run/weights.safetensors")).weights
    assert weights.preprocessing == source.preprocessing
    for name in weights.tensors:
        if name.startswith("conv"):
            assert weights.tensors[name].tobytes() == source.tensors[name].tobytes()
    assert not np.array_equal(weights.tensors["fc6.weight"], source.tensors["fc6.weight"])

    shown = run("inspect", "run/weights.safetensors").out
    assert f"started from  mine.pth, SHA-256 {digest}\n" in shown
    assert "frozen        conv1, conv2, conv3, conv4, conv5\nnew           fc8\nimported from mine.pth: " in shown
    page = Path("run/report.html").read_text()
    assert "<dt>Started from</dt><dd><bdi>mine.pth</bdi></dd>" in page
    assert "<dt>Frozen layers</dt><dd>conv1, conv2, conv3, conv4, conv5</dd>" in page
    exported = run("export", "run", "--out", "a.bundle")
    assert exported.code == 0, exported
    record = json.loads(run("inspect", "a.bundle", "--json").out)["manifest"]["provenance"]["start"]
    assert (record["sha256"], record["imported"]["file"]) == (digest, "mine.pth")
    assert f"started from  mine.pth, SHA-256 {digest}\n" in run("inspect", "a.bundle").out


def test_equal_classes_keep_the_last_layer(own: Path, drawn: Path, run: Run) -> None:
    tuned = run("train", drawn, "--from", own, "--freeze", "conv1..fc7", "--lr", 1e-9, *SHORT, "--out", "run")
    assert tuned.code == 0, tuned
    assert "fc8 is kept: the images have the classes of own.safetensors" in tuned.err.splitlines()
    before, after = (load_weights(Path(path)).weights for path in (own, "run/weights.safetensors"))
    order = [before.labels.index(label) for label in after.labels]
    np.testing.assert_allclose(after.tensors["fc8.weight"], before.tensors["fc8.weight"][order], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--from nothing", "nothing: there is no such weights file or run"),
        ("--freeze conv1", "--freeze needs --from: layers of a new network are random; pass --from FILE"),
        ("--from own.safetensors --freeze pool1", "--freeze pool1: 'pool1' is not a layer with parameters of "),
        ("--from own.safetensors --arch paper", "--arch paper: own.safetensors is torchvision"),
        ("--from own.safetensors --columns", "torchvision: no convolution has 2 groups, so there are no columns"),
    ],
)
def test_wrong_use_is_refused(options: str, message: str, own: Path, drawn: Path, run: Run) -> None:
    refusal = run("train", drawn, *shlex.split(options)).refused(2)
    assert refusal.startswith(message)
    assert not Path("runs").exists()


def test_a_set_that_was_packed_with_another_resize_is_refused(own: Path, drawn: Path, run: Run) -> None:
    packed = run("pack", drawn, "warped.pack", "--resize", "warp")
    assert packed.code == 0, packed
    said = run("train", "warped.pack", "--from", own).refused(3)
    assert said.startswith("warped.pack: was packed with --resize warp, but ")


def test_a_run_resumes_without_its_file_and_refuses_another(own: Path, drawn: Path, run: Run) -> None:
    command = ("train", drawn, "--from", own, "--freeze", "conv1", *SHORT, "--out", "run")
    assert run(*command).code == 0
    before = Path("run/weights.safetensors").read_bytes()
    other = separating_weights(narrowed(ARCHITECTURES["torchvision"]), seed=1)
    saved(other, Path("other.safetensors"))
    resume = ("train", "--resume", "--out", "run")
    assert "but from other.safetensors (SHA-256 " in run(*resume, "--from", "other.safetensors").refused(2)
    assert run(*resume, "--freeze", "conv2").refused(2).endswith("layers are conv1, but conv2 was requested")
    assert run(*command, "--resume").code == 0
    own.unlink()
    assert run(*resume).code == 0
    assert Path("run/weights.safetensors").read_bytes() == before


def test_a_program_fine_tunes_too(own: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = alexnet_deploy.Pretrained(file=own, freeze="conv1,conv2")
    path = alexnet_deploy.train_network(
        drawn, "run", arch=start, settings={"epochs": 1, "warmup_epochs": 0}, device="cpu"
    )
    training = load_weights(path).weights.training
    assert training is not None
    assert training.start is not None
    assert (training.recipe["name"], training.start.frozen) == ("fine-tune", ("conv1", "conv2"))
    assert training.start.sha256 == sha256_of_file(own)
    assert set(LABELS) == set(load_weights(path).weights.labels)
