import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ALL_HELP, HANGS_AFTER_S, HELP, RENEW_HELP, Run

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.images import drawing
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.inspection import doctor
from alexnet_deploy.pipeline import check
from alexnet_deploy.train.loop import trainer as loop


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("predict a.jpg", 2, "there is no bundles/latest yet; `alexnet-deploy export` makes one"),
        ("check", 2, "there is no bundles/latest yet; `alexnet-deploy export` makes one"),
        ("export", 2, "there is no runs/latest yet; `alexnet-deploy train` makes one"),
        ("predict a.jpg --bundle b.bundle", 2, "b.bundle: there is no such bundle"),
        ("check b.bundle", 2, "b.bundle: there is no such bundle"),
        ("export w.safetensors", 2, "w.safetensors: there is no such weights file or run"),
        ("train data", 2, "data: there is no such file or folder"),
        ("inspect a.onnx", 2, "a.onnx: there is no such file or directory"),
        ("inspect a.safetensors", 2, "a.safetensors: there is no such file or directory"),
        ("inspect a.bundle", 2, "a.bundle: there is no such file or directory"),
        ("inspect .", 3, ".: cannot be inspected; pass the directory of a run, a bundle or a packed set, or a"),
        ("train --arch alexnet", 2, "unknown architecture 'alexnet'"),
        (
            "train --recipe cake",
            2,
            "'cake' is not a recipe; use one of drawn, fast, fine-tune, folder, original, paper, two-class, or a file",
        ),
        ("train --recipe a.toml", 2, "a.toml: cannot be read: No such file or directory"),
        (
            "train --columns --arch tiny",
            2,
            "tiny: norm1 normalises 1 groups of channels, but two columns need 2; ",
        ),
        ("train data --columns --arch caffe", 2, "caffe: norm1 normalises 1 groups of channels, but two columns "),
        ("train data --columns", 2, "data: there is no such file or folder"),
        ("train --set patience", 2, "--set patience: expected FIELD=VALUE"),
        ("train --set size=3", 2, "recipe drawn: size is not a recipe field; did you mean batch_size?"),
        ("train --set epoch=3", 2, "recipe drawn: epoch is not a recipe field; did you mean epochs?"),
        ("train --set xyz=3", 2, "recipe drawn: xyz is not a recipe field; the fields are epochs, batch_size, "),
        (
            "recipes cake",
            2,
            "'cake' is not a recipe; use one of drawn, fast, fine-tune, folder, original, paper, two-class, or",
        ),
        ("recipes a.toml", 2, "a.toml: cannot be read: No such file or directory"),
        ("train --set patience=x", 2, "recipe drawn: patience must be an integer, got a string"),
        (
            "train --lr 1 --set learning_rate=2",
            2,
            "--set learning_rate=2: the field is also set by its own option; remove one of them",
        ),
        ("train --lr -1", 2, "recipe drawn: learning_rate is -1.0; it must be greater than 0, and finite"),
        ("demo --out .", 2, ".: already exists; choose another --out"),
    ],
)
def test_error_is_one_sentence_and_an_exit_code(command: str, code: int, sentence: str, run: Run) -> None:
    assert run(*command.split()).refused(code).startswith(sentence)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train --epochs 0", "--epochs: must be 1 or more, got 0"),
        ("train --epochs 1.5", "--epochs: must be a whole number, got 1.5"),
        ("train --lr high", "--lr: must be a number, got high"),
        ("bench --seconds -1", "--seconds: must be 0 or more, got -1"),
        ("export --precision fp7", "--precision: must be fp32, fp16 or int8, got fp7"),
        ("predict a.jpg --format xml", "--format: must be table, jsonl or csv, got xml"),
        ("train --log tensor", "--log: must be csv or tensorboard, got tensor; did you mean tensorboard?"),
        ("train --batch_size 3", "train: there is no option --batch_size; did you mean --batch-size?"),
        ("train --res", "train: there is no option --res; did you mean --resume?"),
        ("trian", "there is no command trian; did you mean train?"),
        ("forecast", "there is no command forecast; `alexnet-deploy --help` shows the commands"),
        (
            "predict --frobnicate a.jpg",
            "predict: there is no option --frobnicate; `alexnet-deploy predict --help` shows",
        ),
        ("train -x", "train: there is no option -x; `alexnet-deploy train --help` shows the options"),
        ("predict", "predict: IMAGES is missing; `alexnet-deploy predict --help` shows the options"),
        ("embed", "embed: DIR is missing; `alexnet-deploy embed --help` shows the options"),
        ("predict a.jpg --output", "--output: needs a value; `alexnet-deploy predict --help` shows the options"),
        ("predict a.jpg --resume=3", "--resume: takes no value; `alexnet-deploy predict --help` shows the options"),
        ("demo there", "demo: takes only options, but the command line has there too; `alexnet-deploy demo --help` "),
        ("export a b", "export: takes 1 argument, WEIGHTS, but the command line has b too; `alexnet-deploy export "),
    ],
)
def test_wrong_use_names_the_argument_and_the_nearest_match(command: str, sentence: str, run: Run) -> None:
    outcome = run(*command.split())
    assert outcome.refused(2).startswith(sentence)
    assert len(outcome.err.splitlines()) == 1


def test_bare_call_shows_the_help(run: Run) -> None:
    outcome = run()
    assert outcome.code == 2
    assert "Usage: alexnet-deploy [OPTIONS] COMMAND [ARGS]..." in outcome.out + outcome.err


def test_unexpected_error_is_one_line_and_names_debug(run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nothing\nat all")

    monkeypatch.setattr(check, "check", fail)
    said = run("check").refused(3)
    assert said == "ZeroDivisionError: by nothing at all; --debug shows the traceback"


@pytest.mark.parametrize("arguments", [["--debug", "check", "b.bundle"], ["check", "b.bundle", "--debug"]])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(arguments: list[str], run: Run) -> None:
    Path("b.bundle").mkdir()
    assert run("check", "b.bundle").refused(3).startswith("b.bundle: not a bundle: there is no manifest.json")
    outcome = run(*arguments)
    assert outcome.code == 3
    first, *_, raised, last = outcome.err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert raised.startswith(
        "alexnet_deploy.core.errors.BundleError: b.bundle: not a bundle: there is no manifest.json"
    )
    assert last.startswith("error: b.bundle: not a bundle: there is no manifest.json")


def test_interrupt_exits_with_130_and_without_a_traceback(
    run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "check", interrupt)
    outcome = run("check")
    assert outcome.code == 130
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("out", "is_latest"), [(None, True), ("runs/mine", True), ("there", False)])
def test_interrupted_training_says_how_to_resume(
    out: str | None, is_latest: bool, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch, begun = loop.Trainer._train_epoch, []

    def one_epoch(trainer: loop.Trainer, *arguments: object) -> None:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        train_epoch(trainer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "_train_epoch", one_epoch)
    options = ["--out", out] if out else []
    outcome = run("train", data, "--arch", "tiny", *options)
    assert outcome.code == 130
    assert outcome.out == ""
    (said,) = re.findall(r"interrupted; resume with `alexnet-deploy train --resume --out (\S+)`\n", outcome.err)
    assert Path(said, "checkpoint.safetensors").exists()
    assert Path(said, "weights.safetensors").exists()
    assert "Traceback" not in outcome.err
    pointer = Path(said).with_name("latest")
    assert pointer.exists() is is_latest
    assert not is_latest or pointer.read_text() == f"{Path(said).name}\n"


def test_interruption_before_the_first_weights_offers_no_resume(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Trainer, "__init__", interrupted)
    outcome = run("train", data, "--arch", "tiny", "--out", "there")
    assert outcome.code == 130
    assert "interrupted; " not in outcome.err
    assert not Path("there").exists()


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--out", "here"], 2, "here: already exists; choose another --out, or resume it with --resume"),
        (["--device", "cuda"], 3, "no CUDA device found by torch; use --device cpu"),
    ],
)
def test_impossible_request_is_refused_before_the_data_is_read(
    options: list[str], code: int, sentence: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("here").mkdir()
    assert run("train", "no such data", *options).refused(code) == sentence


def test_a_foreign_file_named_latest_is_kept(run: Run, loaded: LoadedWeights) -> None:
    Path("latest").write_text("precious")
    assert run("export", loaded.path, "--out", "mine.bundle").code == 0
    assert Path("latest").read_text() == "precious"


def test_folder_that_cannot_be_written_gives_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "drawn")

    monkeypatch.setattr(drawing, "draw_folder", full)
    assert run("train").refused(3) == "drawn: No space left on device"


def test_inspect_describes_weights_bundle_and_graph(run: Run, bundle: Bundle, loaded: LoadedWeights) -> None:
    of_weights = run("inspect", loaded.path)
    assert of_weights.code == 0
    assert of_weights.err == ""
    assert f"{loaded.path}: trained weights of original, 4 classes\n" in of_weights.out
    assert loaded.sha256 in of_weights.out
    assert "container ship, hot-air balloon, mountain bike, umbrella" in of_weights.out
    assert f"{loaded.weights.architecture.num_parameters:,}" in of_weights.out
    of_bundle = run("inspect", bundle.path)
    assert of_bundle.code == 0
    assert f"{bundle.path}: bundle, fp32, original, views ten\n" in of_bundle.out
    assert loaded.sha256 in of_bundle.out
    assert bundle.sha256 in of_bundle.out
    for text in (*bundle.manifest.files, *bundle.manifest.golden.separation, "openvino", "onnxruntime"):
        assert text in of_bundle.out
    assert "golden file   golden/files/cmyk.jpg (" in of_bundle.out
    of_graph = run("inspect", bundle.path / "model.onnx")
    assert of_graph.code == 0
    assert ": ONNX graph " in of_graph.out
    assert " 1 LRN" in of_graph.out or " 2 LRN" in of_graph.out
    Path("some.onnx").write_bytes(b"\xff" * 100)
    assert run("inspect", "some.onnx").refused(3).startswith("some.onnx: cannot be read as an ONNX graph")
    Path("some.safetensors").write_bytes(b"\xff" * 100)
    assert run("inspect", "some.safetensors").refused(3).startswith("some.safetensors: not a safetensors file")


def test_doctor_has_one_line_per_component(run: Run) -> None:
    outcome = run("doctor")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = {line[4:18].strip(): (line[:2], line[19:]) for line in outcome.out.splitlines()}
    parts = [
        "python",
        "processor",
        "gpu",
        "openvino",
        "onnxruntime",
        "pillow-heif",
        "fsspec",
        "h5py",
        "torch",
        "onnx",
        "tensorrt-rtx",
        "tensorrt",
    ]
    assert list(lines) == [*parts, "cuda"]
    for part in ("openvino", "onnxruntime", "torch", "onnx"):
        mark, words = lines[part]
        assert mark == "ok"
        assert words[0].isdigit()


def test_doctor_says_how_to_install_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    outcome = run("doctor")
    assert outcome.code == 0
    missing = [line for line in outcome.out.splitlines() if line.startswith("--") and "pip install" in line]
    assert len(missing) == 10


def test_doctor_finds_broken_installations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name == "torch":
            raise OSError("libtorch.so: file too short")

    monkeypatch.setattr(doctor, "installed_version", lambda package: "1.2.3")
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    outcome = run("doctor")
    assert outcome.code == 1
    broken = [line for line in outcome.out.splitlines() if line.startswith("!!")]
    both = "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files"
    assert broken == [
        "!!  torch          1.2.3 is installed, but does not load: libtorch.so: file too short",
        f"!!  onnxruntime    {both}; uninstall both, then install one",
    ]


def test_help_matches_the_snapshot_and_imports_no_large_library() -> None:
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "100", "TERM": "dumb", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALL_HELP],
        capture_output=True,
        check=True,
        timeout=HANGS_AFTER_S,
        env=environment,
        encoding="utf-8",
    )
    assert done.stderr == "", "--help imported these"
    assert done.stdout == HELP.read_text(encoding="utf-8"), f"if the change is intended: {RENEW_HELP}"


@pytest.mark.parametrize(("given", "kept"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_torch_wait_without_spinning_unless_the_environment_says_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: str | None, kept: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    run("--help")
    assert os.environ["OMP_WAIT_POLICY"] == kept
