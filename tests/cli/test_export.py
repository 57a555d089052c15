"""`export --precision int8` and `check --data` on the command line."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from commands import Run
from networks import saved

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.inputs.labelled import find_labelled
from alexnet_deploy.core.model.weights import EpochMetrics, LoadedWeights, Weights
from alexnet_deploy.export.calibration_cache import load_cache


@pytest.fixture
def trained(sure: Weights, tmp_path: Path) -> Path:
    """A narrow network that is confident on the drawn training images, saved where `train` would save it."""
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/latest").write_text("one\n")
    return saved(sure, tmp_path / "runs/one/weights.safetensors").path


def test_int8_accuracy_is_measured_and_printed(run: Run, trained: Path, drawn: Path) -> None:
    outcome = run(
        *("export", "--precision", "int8", "--calibrate", drawn / "train", "--data", drawn / "train"),
        *("--calibration-cache", "kept.json", "--method", "minmax"),
    )
    assert outcome.code == 0, outcome.err
    bundle = open_bundle(Path(outcome.out.removesuffix("\n")))
    assert bundle.path.parent == Path("bundles")
    assert re.fullmatch(r"paper-int8-\d{8}-\d{6}\.bundle", bundle.path.name)
    lines = outcome.err.splitlines()
    assert lines[0] == "no WEIGHTS given: using runs/one/weights.safetensors"
    assert "  calibrating on 16 images" in lines
    assert "  running the FP32 graph on 16 images" in lines
    # One row for the network's FP32 graph; for each engine one against the network, two against the graph.
    header = next(place for place, line in enumerate(lines) if line.startswith("engine "))
    rows = [line.split() for line in lines[header + 1 : header + 8]]
    engines = [(row[0], row[2]) for row in rows]
    assert engines == [("openvino", "fp32"), *[("openvino", "int8")] * 3, *[("onnxruntime", "int8")] * 3]
    assert all(row[-1] == "passed" for row in rows)
    (accuracy,) = (line for line in lines if line.startswith("accuracy on "))
    assert re.fullmatch(
        r"accuracy on 16 images: top-1 100\.00%, trained network 100\.00%: drop 0\.00 points, "
        r"95 % interval -\d+\.\d\d to \d+\.\d\d, 0\.5 allowed; 0 top-1 predictions changed",
        accuracy,
    )
    assert lines[-1] == f"next: alexnet-deploy predict {drawn}/val/"
    quantization = bundle.manifest.quantization
    assert quantization is not None
    assert (quantization.calibration.method, quantization.rest, len(quantization.ranges)) == ("minmax", "fp32", 8)
    gate = bundle.manifest.gate
    assert gate is not None
    assert gate.accuracy is not None
    assert (gate.calibration_agreement, gate.fallbacks, gate.accuracy.flips) == (None, (), ())
    assert (gate.accuracy.num_images, gate.accuracy.reference_top1, gate.accuracy.reference_top5) == (16, 1.0, 1.0)
    assert gate.accuracy.images_sha256 == find_labelled(drawn / "train", bundle.labels).sha256
    assert load_cache(Path("kept.json")).images_sha256 == quantization.calibration.images_sha256


def test_int8_calibrates_on_the_training_images_by_default(run: Run, trained: Path, drawn: Path) -> None:
    outcome = run(
        *("export", trained, "--precision", "int8", "--out", "mine.bundle", "--rest", "fp16"),
        *("--keep-float", "conv1", "--keep-float", "fc8", "--calibration-images", "15"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out == "mine.bundle\n"
    assert f"  calibrating on the training images in {drawn}\n" in outcome.err
    assert (
        "accuracy was not measured; pass --data DIR to measure it. 100.00% of the calibration images have the trained "
        "network's top-1 prediction\n" in outcome.err
    )
    assert outcome.err.endswith(f"next: alexnet-deploy predict {drawn}/val/ --bundle mine.bundle\n")
    quantization = open_bundle(Path("mine.bundle")).manifest.quantization
    assert quantization is not None
    assert list(quantization.ranges) == ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert (quantization.rest, quantization.calibration.num_images) == ("fp16", 15)
    assert run("export", trained, "--precision", "int8", "--out", "mine.bundle").refused(2).startswith("mine.bundle: ")


def test_weights_of_an_unfinished_first_epoch_are_not_exported(run: Run, trained: Path, sure: Weights) -> None:
    assert sure.training is not None
    begun = msgspec.structs.replace(sure.training, epochs=(), best_epoch=0, confusion=(), interrupted=True)
    saved(replace(sure, training=begun), trained)
    said = run("export").refused(2)
    assert said == (
        "runs/one/weights.safetensors: these weights are not trained: the run was interrupted in its first epoch; "
        "training cannot be resumed: there is no checkpoint.safetensors beside the weights"
    )
    assert not Path("bundles").exists()


def test_int8_bundle_predicts_and_can_be_inspected(
    run: Run, int8_shipment: tuple[LoadedWeights, Bundle], drawn: Path
) -> None:
    _, bundle = int8_shipment
    outcome = run("predict", drawn / "train", "--bundle", bundle.path, "--format", "jsonl")
    assert outcome.code == 0
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(rows) == 16
    assert all(Path(row["path"]).parent.name == row["top"][0]["label"] for row in rows)
    assert ", ten views, on openvino " in outcome.err
    assert ", int8 products" in outcome.err
    shown = run("inspect", bundle.path).out
    assert f"{bundle.path}: bundle, int8, paper, views ten\n" in shown
    assert re.search(r"^calibration +16 images, method \w+; rest fp32$", shown, flags=re.MULTILINE)
    assert re.search(r"^int8 ranges +conv1 \S+, conv2 ", shown, flags=re.MULTILINE)
    assert "accuracy was not measured" in shown


INT8_OPTIONS = (
    "--calibrate .",
    "--calibration-images 8",
    "--calibration-cache kept.json",
    "--method mse",
    "--rest fp16",
    "--keep-float conv1",
    "--data .",
    "--data . --max-drop 1",
)


@pytest.mark.parametrize("options", INT8_OPTIONS)
@pytest.mark.parametrize("precision", ["", "--precision fp32", "--precision fp16"])
def test_int8_option_is_refused_with_another_precision(precision: str, options: str, run: Run, trained: Path) -> None:
    before = sorted(Path.cwd().rglob("*"))
    said = run("export", *precision.split(), *options.split()).refused(2)
    name = precision.removeprefix("--precision ") or "fp32"
    given = [word for word in options.split() if word.startswith("--")]
    verb, them = ("applies", "it") if len(given) == 1 else ("apply", "them")
    assert said == (
        f"{', '.join(given)} {verb} to int8 only, but the precision is {name}; pass --precision int8, or remove {them}"
    )
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ("--max-drop 1", 2, "--max-drop needs --data, a folder of labelled images to measure the drop on"),
        ("--max-drop nan --data DRAWN", 2, "allowed drop must be 0 to 100 points, got nan"),
        ("--max-drop -1 --data DRAWN", 2, "allowed drop must be 0 to 100 points, got -1.0"),
        ("--calibrate nothing", 2, "nothing: there is no such folder of images"),
        ("--data nothing", 2, "nothing: there is no such folder of images"),
        ("--data EMPTY", 3, "EMPTY: no images found in class folders; put them into CLASS/"),
        ("--keep-float conv9", 2, "conv9: not a layer that can be in int8; choose from conv1, conv2, conv3, "),
        ("--calibration-cache EMPTY", 3, "EMPTY: cannot be read: it is a directory, not a regular file"),
    ],
)
def test_impossible_int8_request_gives_one_sentence(
    options: str, code: int, sentence: str, run: Run, trained: Path, drawn: Path
) -> None:
    Path("EMPTY").mkdir()
    words = [str(drawn) if word == "DRAWN" else word for word in options.split()]
    assert run("export", "--precision", "int8", *words).refused(code).startswith(sentence)
    assert {path for path in Path.cwd().rglob("*") if path.is_file()} == {trained, trained.parents[1] / "latest"}


def test_weights_without_training_images_say_what_to_do(run: Run, sure: Weights, loaded: LoadedWeights) -> None:
    said = run("export", loaded.path, "--precision", "int8").refused(2)
    assert said == "these weights record no training images; pass --calibrate DIR to calibrate on other images"


def test_implausible_ranges_exit_with_1(run: Run, trained: Path) -> None:
    from PIL import Image

    Path("grey").mkdir()
    Image.new("RGB", (256, 256), (127, 127, 127)).save("grey/a.png")
    said = run("export", "--precision", "int8", "--calibrate", "grey").refused(1)
    assert said.startswith("nothing was published: ")
    assert list(Path.cwd().rglob("*.bundle")) == []


def test_check_on_labelled_images_shows_accuracy(
    run: Run, trained: Path, int8_shipment: tuple[LoadedWeights, Bundle], drawn: Path
) -> None:
    loaded, bundle = int8_shipment
    outcome = run("check", bundle.path, "--weights", loaded.path, "--data", drawn / "train")
    assert outcome.code == 0, outcome.out
    header, *rows = outcome.out.splitlines()
    assert " accuracy " in header
    given = [row for row in rows if " 16 given " in row]
    assert [row.split()[0] for row in given] == ["torch", "openvino", "openvino", "onnxruntime"]
    assert all(row.split("  ")[-1] == "passed" for row in rows[:-1])
    assert rows[-1].startswith("decoder Pillow ")
    assert rows[-1].endswith(": passed")
    answer = json.loads(run("check", bundle.path, "--weights", loaded.path, "--data", drawn / "train", "--json").out)
    accuracies = {row["top1_accuracy"] for row in answer["rows"] if row["pictures"] == "16 given"}
    assert accuracies == {1.0}
    assert {row["top1_accuracy"] for row in answer["rows"] if row["pictures"] == "golden"} == {None}
    # Images without classes are compared too.
    Path("flat").mkdir()
    for place, path in enumerate(sorted((drawn / "train").rglob("*.jpg"))[:3]):
        shutil.copy(path, f"flat/{place}.jpg")
    outcome = run("check", bundle.path, "--weights", loaded.path, "--data", "flat", "--backend", "openvino")
    assert outcome.code == 0
    assert "accuracy" not in outcome.out
    assert " 3 given " in outcome.out


def test_check_of_a_faulty_int8_bundle_exits_with_1(run: Run, int8_shipment: tuple[LoadedWeights, Bundle]) -> None:
    from graphs import edited_graph, scaled
    from networks import republished

    _, bundle = int8_shipment
    graph = edited_graph(bundle, scaled("conv3.input.scale", 10.0))
    faulty = republished(bundle, Path("faulty.bundle").absolute(), {"model.onnx": graph})
    outcome = run("check", faulty.path, "--backend", "onnxruntime")
    assert outcome.code == 1
    assert "FAILED: conv3.input.scale: is " in outcome.out
    assert outcome.err.endswith(f"{faulty.path}: FAILED\n")


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_weights_of_an_interrupted_run_are_exported_with_a_message(
    has_checkpoint: bool, run: Run, trained: Path, sure: Weights
) -> None:
    assert sure.training is not None
    epoch = EpochMetrics(
        epoch=1,
        learning_rate=0.1,
        train_loss=1.0,
        validation_loss=1.0,
        validation_top1=0.5,
        validation_top5=1.0,
        images_per_second=1.0,
    )
    epochs = tuple(msgspec.structs.replace(epoch, epoch=number) for number in (1, 2, 3))
    record = msgspec.structs.replace(sure.training, recipe={"epochs": 8}, epochs=epochs, best_epoch=2, interrupted=True)
    replace(sure, training=record).save(trained)
    if has_checkpoint:
        (trained.parent / "checkpoint.safetensors").touch()
    outcome = run("export")
    assert outcome.code == 0, outcome.err
    how = (
        "`alexnet-deploy train --resume --out runs/one` resumes it"
        if has_checkpoint
        else "training cannot be resumed: there is no checkpoint.safetensors beside the weights"
    )
    assert outcome.err.splitlines()[1] == f"{trained.relative_to(Path.cwd())}: interrupted after 3 of 8 epochs; {how}"
    assert "training was interrupted after 3 of 8 epochs\n" in run("inspect", trained).out
