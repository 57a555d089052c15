"""`export --calibrate-confidence`: the graph, its proof, its record and its refusals."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from commands import Run
from networks import republished, saved
from onnx import numpy_helper

import alexnet_deploy
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.confidence.chance import chance_error
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.confidence.reliability import Reliability
from alexnet_deploy.core.confidence.temperature import with_temperature
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.pipeline.confidence import calibration
from alexnet_deploy.pipeline.confidence import images as judged
from alexnet_deploy.pipeline.confidence.images import ConfidenceImages, confidence_images
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.int8.calibration import Int8Request
from alexnet_deploy.predict.predictor import load


@pytest.fixture(scope="session")
def judges(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """208 labelled images, of which the network that learnt on them is sure; four of thirteen have a wrong label."""
    root = tmp_path_factory.mktemp("judges") / "judges"
    classes = sorted(folder.name for folder in (drawn / "train").iterdir())
    for place, name in enumerate(classes):
        for image in (drawn / "train" / name).iterdir():
            for number in range(13):
                label = name if number < 9 else classes[(place + 1) % len(classes)]
                (root / label).mkdir(parents=True, exist_ok=True)
                os.link(image, root / label / f"{name}-{number}-{image.name}")
    return root


@pytest.fixture(scope="session")
def calibrated(
    sure: Weights, judges: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedWeights, Bundle, Confidence]:
    folder = tmp_path_factory.mktemp("calibrated")
    loaded = saved(with_temperature(sure, 0.5), folder / "weights.safetensors")
    bundle = export(loaded, folder / "a.bundle", ExportRequest(views="center", confidence=judges))
    record = bundle.manifest.confidence
    assert isinstance(record, Confidence)
    return loaded, bundle, record


def constants(bundle: Bundle) -> dict[str, np.ndarray]:
    model = onnx.load_model_from_string(bundle.read(GRAPH))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def mean_confidence(found: Reliability) -> float:
    means = [each.mean_confidence * each.num_images for each in found.bins if each.mean_confidence is not None]
    return sum(means) / found.num_images


def test_confidence_agrees_with_accuracy_and_the_network_says_the_same(
    calibrated: tuple[LoadedWeights, Bundle, Confidence],
) -> None:
    _, _, record = calibrated
    assert record.num_images == 208
    assert record.temperature > 2.0
    # Nine of thirteen labels are right, at any confidence.
    before, after = mean_confidence(record.before) - 9 / 13, mean_confidence(record.after) - 9 / 13
    assert before > 0.1
    assert abs(after) < before
    assert record.after.expected_calibration_error < record.before.expected_calibration_error
    assert record.loss_after < record.loss_before
    assert record.num_changed == 0


def test_only_the_last_layer_is_divided(calibrated: tuple[LoadedWeights, Bundle, Confidence]) -> None:
    loaded, bundle, record = calibrated
    found, tensors = constants(bundle), loaded.weights.tensors
    for name, tensor in tensors.items():
        factor = record.temperature if name.startswith("fc8.") else 1.0
        assert np.array_equal(found[name], (tensor.astype(np.float64) / factor).astype(np.float32)), name


def test_the_predictions_are_the_scaled_ones(
    calibrated: tuple[LoadedWeights, Bundle, Confidence], judges: Path
) -> None:
    _, bundle, record = calibrated
    with load(bundle.path) as predictor:
        confidences = [prediction.confidence for prediction in predictor.predict([judges])]
    assert None not in confidences
    # The record's confidences are of the temperatures of the halves, and these of that of all images.
    assert np.mean(np.array(confidences, float)) == pytest.approx(mean_confidence(record.after), abs=0.01)


def test_check_compares_with_the_weights_that_have_the_temperature(
    calibrated: tuple[LoadedWeights, Bundle, Confidence],
) -> None:
    loaded, bundle, _ = calibrated
    result = check(bundle, weights=loaded)
    assert result.passed, (result.problems, result.rows)
    assert {row.backend for row in result.rows} >= {"torch", "openvino", "onnxruntime"}


def test_a_temperature_that_is_not_the_graphs_is_named(
    calibrated: tuple[LoadedWeights, Bundle, Confidence], tmp_path: Path
) -> None:
    loaded, bundle, record = calibrated
    other = msgspec.structs.replace(
        bundle.manifest, confidence=msgspec.structs.replace(record, temperature=record.temperature * 1.001)
    )
    changed = republished(bundle, tmp_path / "changed.bundle", {}, other)
    assert check(changed).problems == ("temperature: the graph's metadata does not match the manifest",)
    problems = check(changed, weights=loaded).problems
    assert [problem.split(":")[0] for problem in problems] == ["temperature", "fc8.weight", "fc8.bias"]
    without = republished(
        bundle, tmp_path / "without.bundle", {}, msgspec.structs.replace(bundle.manifest, confidence=msgspec.UNSET)
    )
    assert "fc8.weight" in " ".join(check(without, weights=loaded).problems)


def test_an_int8_graph_is_gated_against_the_network_with_its_temperature(
    sure: Weights, judges: Path, drawn: Path, tmp_path: Path
) -> None:
    loaded = saved(sure, tmp_path / "weights.safetensors")
    request = ExportRequest(
        precision="int8",
        views="center",
        int8=Int8Request(calibrate=drawn / "train", method="minmax"),
        confidence=judges,
    )
    bundle = export(loaded, tmp_path / "int8.bundle", request)
    assert check(bundle, weights=loaded).passed


def test_the_effect_is_printed_and_inspected(run: Run, sure: Weights, judges: Path, tmp_path: Path) -> None:
    saved(sure, tmp_path / "weights.safetensors")
    outcome = run(
        *("export", "weights.safetensors", "--views", "center", "--calibrate-confidence", judges, "--out", "a.bundle")
    )
    assert outcome.code == 0, outcome.err
    record = open_bundle(Path("a.bundle")).manifest.confidence
    assert isinstance(record, Confidence)
    line = (
        f"confidence on 208 images: temperature {record.temperature:.3f}, calibration error "
        f"{record.before.expected_calibration_error:.2%} -> {record.after.expected_calibration_error:.2%}, "
        f"{chance_error(record.after):.2%} expected by chance; "
        f"loss {record.loss_before:.3f} -> {record.loss_after:.3f}; 0 top-1 predictions changed"
    )
    assert line in outcome.err.splitlines()
    shown = run("inspect", "a.bundle").out.splitlines()
    assert line in shown
    assert f"temperature   {record.temperature:.6g}, of the last layer" in shown


def test_a_folder_that_does_not_exist_is_refused(run: Run, sure: Weights, tmp_path: Path) -> None:
    saved(sure, tmp_path / "weights.safetensors")
    said = run("export", "weights.safetensors", "--calibrate-confidence", "nowhere").refused(2)
    assert "nowhere" in said


# The images


def test_the_validation_images_of_the_training_are_those_of_its_folder(
    sure: Weights, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged, "FEWEST_IMAGES", 8)
    recorded = confidence_images("validation", sure, say_nothing)
    named = confidence_images(drawn, sure, say_nothing)
    assert recorded.sha256 == named.sha256
    assert recorded.truths.tolist() == named.truths.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (recorded.is_validation, named.is_validation) == (True, False)


def test_too_few_images_are_refused(sure: Weights, drawn: Path) -> None:
    reason = r"^8 images to calibrate confidence on, but 200 or more are needed; pass --calibrate-confidence DIR with "
    with pytest.raises(UsageError, match=reason):
        confidence_images("validation", sure, say_nothing)
    with pytest.raises(UsageError, match=reason):
        confidence_images(drawn, sure, say_nothing)


def test_images_that_the_network_was_trained_on_are_refused(sure: Weights, drawn: Path) -> None:
    with pytest.raises(UsageError, match=r"train: the network was trained on these images, so its confidence in them"):
        confidence_images(drawn / "train", sure, say_nothing)


def test_validation_images_that_the_weights_do_not_record_are_refused(sure: Weights) -> None:
    with pytest.raises(UsageError, match=r"record no training images; pass --calibrate-confidence DIR to calibrate on"):
        confidence_images("validation", replace(sure, training=None), say_nothing)


def test_validation_images_that_have_changed_are_refused(sure: Weights) -> None:
    assert sure.training is not None
    other = msgspec.structs.replace(sure.training, data_sha256="0" * 64)
    with pytest.raises(UsageError, match=r"differ from those the weights were trained on .*--calibrate-confidence DIR"):
        confidence_images("validation", replace(sure, training=other), say_nothing)


# The halves


def measured(logits: np.ndarray, truths: np.ndarray, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> Confidence:
    def logits_of(*arguments: object) -> np.ndarray:
        return logits

    monkeypatch.setattr(calibration, "view_logits", logits_of)
    sources: Sequence[Path] = [Path("never read")] * len(truths)
    images = ConfidenceImages(sources=sources, truths=truths, sha256="0" * 64, is_validation=False)
    views = views_by_name("center", weights.architecture.input_size)
    return calibration.calibrate_confidence(weights, views, images, say_nothing)


def test_no_image_is_judged_by_a_temperature_that_it_helped_to_find(
    sure: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 3.0, (1, 400, 3))
    truths = np.where(rng.random(400) < 0.6, logits[0].argmax(axis=1), rng.integers(0, 3, 400))
    whole = measured(logits, truths, sure, monkeypatch)
    # The first image of each pair finds the first temperature: with other classes of these, only the second one stays.
    changed = truths.copy()
    changed[::2] = np.where(rng.random(200) < 0.3, rng.integers(0, 3, 200), changed[::2])
    partly = measured(logits, changed, sure, monkeypatch)
    assert partly.half_temperatures[1] == whole.half_temperatures[1]
    assert partly.half_temperatures[0] != whole.half_temperatures[0]
    low, high = sorted(whole.half_temperatures)
    assert low < whole.temperature < high


def test_near_ties_between_views_that_turn_are_counted(sure: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    logits = np.repeat(rng.normal(0.0, 3.0, (1, 300, 2)), 3, axis=0)
    truths = np.where(rng.random(300) < 0.65, logits[0].argmax(axis=1), rng.integers(0, 2, 300))
    # Two views are fairly sure of one class and win; a temperature weakens them more than the third, which is certain.
    logits[:, :4] = np.array([[20.0, 0.0], [0.0, 2.0], [0.0, 2.0]])[:, None]
    found = measured(logits, truths, sure, monkeypatch)

    def guesses(temperature: float) -> np.ndarray:
        exponents = np.exp(logits / temperature)
        return (exponents / exponents.sum(axis=2, keepdims=True)).sum(axis=0).argmax(axis=1)

    assert found.num_changed >= 4
    assert found.num_changed == int((guesses(1.0) != guesses(found.temperature)).sum())


def test_python_exports_a_calibrated_bundle_too(
    judges: Path, calibrated: tuple[LoadedWeights, Bundle, Confidence], tmp_path: Path
) -> None:
    loaded, _, record = calibrated
    out = alexnet_deploy.export_bundle(loaded.path, tmp_path / "b.bundle", views="center", confidence=judges)
    assert open_bundle(out).manifest.confidence == record
    with pytest.raises(UsageError, match="8 images to calibrate confidence on, but 200 or more are needed"):
        alexnet_deploy.export_bundle(loaded.path, tmp_path / "c.bundle", confidence="validation")
