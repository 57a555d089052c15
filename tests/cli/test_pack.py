from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.train.pack import writer as packing
from alexnet_deploy.train.pack.format import IMAGES, open_pack


def test_images_are_packed_and_trained_on_and_other_files_are_named(run: Run, data: Path) -> None:
    (data / "train/umbrella/notes.txt").write_bytes(b"x")
    packed = run("pack", data, "drawn.pack")
    assert packed.code == 0
    assert packed.out == "drawn.pack\n"
    said = packed.err.splitlines()
    assert said[0] == f"{data}: 9 training images, 4 validation images, 4 classes"
    assert said[1] == "skipped, not_an_image: train/umbrella/notes.txt"
    assert said[2].startswith("8 training images, 4 validation images, 0.00 GB, 1 skipped; ")
    assert said[3] == "next: alexnet-deploy train drawn.pack"
    trained = run("train", "drawn.pack", "--arch", "tiny", "--epochs", 1, "--batch-size", 4, "--out", "run")
    assert trained.code == 0
    assert "drawn.pack: 8 training images, 4 validation images, 4 classes" in trained.err
    record = load_weights(Path("run/weights.safetensors")).weights.training
    assert record is not None
    assert record.data == str(Path("drawn.pack").resolve())
    assert record.data_sha256 == open_pack(Path("drawn.pack")).header.source_sha256
    assert record.excluded == {"train/umbrella/notes.txt": "not_an_image"}


def test_verify_reads_a_whole_packed_set(run: Run, data: Path) -> None:
    run("pack", data, "drawn.pack", "--threads", 1)
    verified = run("pack", "drawn.pack", "--verify")
    assert (verified.code, verified.out) == (0, "drawn.pack: 12 images, all unchanged since packing\n")
    content = bytearray(Path("drawn.pack", IMAGES).read_bytes())
    content[-1] ^= 1
    Path("drawn.pack", IMAGES).write_bytes(content)
    refused = run("pack", "drawn.pack", "--verify").refused(3)
    assert refused.startswith("drawn.pack/pictures.u8: images 0 to 11 were changed after packing")


def test_inspect_describes_a_packed_set(run: Run, data: Path) -> None:
    (data / "val/umbrella/notes.txt").write_bytes(b"x")
    run("pack", data, "drawn.pack")
    header = open_pack(Path("drawn.pack")).header
    lines = run("inspect", "drawn.pack").out.splitlines()
    assert lines[0] == "drawn.pack: packed set of 12 images, 4 classes, 0.00 GB"
    assert lines[1:4] == ["training      8 images", "validation    4 images", f"packed from   {data}"]
    assert header.source_sha256 in lines[4]
    assert lines[-1] == "skipped       val/umbrella/notes.txt: not_an_image"


def test_an_interruption_exits_with_130_and_the_same_command_resumes(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = packing._publish

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "_publish", interrupt)
    interrupted = run("pack", data, "drawn.pack")
    assert interrupted.code == 130
    assert "interrupted; repeat the command to resume" in interrupted.err
    assert not Path("drawn.pack").exists()
    monkeypatch.setattr(packing, "_publish", publish)
    resumed = run("pack", data, "drawn.pack")
    assert resumed.code == 0
    assert "resuming after 12 of 12 images; their digests match" in resumed.err


def test_input_that_cannot_be_packed_is_refused_in_one_sentence(run: Run, data: Path) -> None:
    assert run("pack", "nothing", "one.pack").refused(2) == "nothing: there is no such file or folder"
    assert run("pack", data).refused(2) == (
        "OUT is missing, the new directory for the packed set: alexnet-deploy pack DATA OUT"
    )
    assert run("pack", data, "one.pack", "--verify").refused(2) == (
        "--verify takes one packed set and writes nothing; remove OUT"
    )
    assert run("pack", data, "--verify").refused(3) == f"{data}/pack.json: cannot be read: No such file or directory"
    Path("taken").mkdir()
    assert "taken: already exists" in run("pack", data, "taken").refused(2)
    run("pack", data, "one.pack", "--resize", "warp")
    assert run("pack", "one.pack", "two.pack").refused(2) == (
        "one.pack: is already a packed set; train on it, or pack its source again"
    )
    assert "was packed with --resize warp" in run("train", "one.pack", "--arch", "tiny").refused(3)
