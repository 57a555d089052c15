"""A bundle of features is exported, proved and checked like a bundle of probabilities."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import Run
from networks import republished, saved, shipped, with_tensor

from alexnet_deploy.core.bundle.contract import Subject, output_of
from alexnet_deploy.core.bundle.manifest import FEATURES_VERSION
from alexnet_deploy.core.bundle.store import GOLDEN_INDEX, LABELS, REPORT, Bundle, open_bundle
from alexnet_deploy.core.errors import ExportError, ParityError, UsageError
from alexnet_deploy.core.golden.record import FeatureTolerance
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.proof.faults import planted_faults
from alexnet_deploy.engines.proof.features import relative_errors
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.proof.tolerances import FEATURE_TOLERANCES, candidate_tolerance, engine_tolerance
from alexnet_deploy.inspection.describe import describe_facts
from alexnet_deploy.inspection.facts import inspect_path
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.int8.calibration import Int8Request

EVERY_FAULT = {
    "LRN alpha times 5",
    "red and blue swapped",
    "mean dropped",
    "crop off by one",
    "mirror forgotten",
    "one view doubled, another missing",
    "first grouped convolution ungrouped",
    "first linear layer fed channels last",
}


@pytest.fixture(scope="module")
def int8_features(sure: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    return shipped(sure, tmp_path_factory.mktemp("int8"), precision="int8", views="center", output_layer="relu7")


def test_a_bundle_of_features_says_what_it_returns(features_bundle: Bundle) -> None:
    manifest = features_bundle.manifest
    assert manifest.format_version == FEATURES_VERSION
    assert manifest.output == output_of(manifest.architecture, "fc7")
    assert manifest.golden.features is not msgspec.UNSET
    assert manifest.golden.expected.shape == (8, 64)
    assert {"golden/features.f32", "golden/file_features.f32", LABELS} < manifest.files.keys()
    assert not [name for name in manifest.files if "probabilities" in name]
    assert all(row.passed and row.max_cosine_distance <= 1e-10 for row in manifest.parity)
    assert {row.backend for row in manifest.parity} == {"openvino", "onnxruntime"}
    index = features_bundle.read(GOLDEN_INDEX).decode()
    assert "8 images, 64 features of fc7." in index
    assert "compare its output `features`:" in index
    assert "|p - q| <= 1e-05 max |q|, cosine distance <= 1e-10 in every row" in index


def test_inspect_and_the_report_end_with_the_layer_of_the_features(features_bundle: Bundle) -> None:
    architecture = features_bundle.manifest.architecture
    costs = list(architecture.costs("fc7"))
    num_parameters = sum(cost.num_parameters for cost in costs)
    assert num_parameters < architecture.num_parameters
    facts = describe_facts(inspect_path(features_bundle.path))
    assert "\nfc7 " in facts
    assert "\nfc8 " not in facts
    assert f"{num_parameters:,}" in facts
    page = features_bundle.read(REPORT).decode()
    assert "<bdi>fc7</bdi>" in page
    assert "<bdi>fc8</bdi>" not in page
    assert f"<td>{num_parameters:,}</td>" in page


def test_check_proves_it_with_the_trained_network_and_layer_by_layer(
    features_bundle: Bundle, loaded: LoadedWeights
) -> None:
    result = check(features_bundle, weights=loaded, with_layers=True)
    assert result.passed
    assert result.problems == ()
    assert [row.backend for row in result.rows if row.images == "golden"] == ["torch", "openvino", "onnxruntime"]
    for table in result.layers:
        assert [row.name for row in table.rows][-2:] == ["fc7", "features"]
        assert table.unfused_error <= table.allowed_unfused_error == FEATURE_TOLERANCES["fp32"].error


@pytest.mark.parametrize("layer", ["pool5", "fc7"])
def test_half_and_int8_are_proved_at_their_tolerances(layer: str, sure: Weights, drawn: Path, tmp_path: Path) -> None:
    loaded = saved(sure, tmp_path / "weights.safetensors")
    half = export(loaded, tmp_path / "half.bundle", ExportRequest(precision="fp16", views="center", output_layer=layer))
    assert half.manifest.golden.allowed == FEATURE_TOLERANCES["fp16"]
    assert all(row.passed for row in half.manifest.parity)
    assert max(row.max_error for row in half.manifest.parity) > 1e-5
    int8 = Int8Request(calibrate=drawn / "train")
    request = ExportRequest(precision="int8", views="center", output_layer=layer, int8=int8)
    eight = export(loaded, tmp_path / "int8.bundle", request)
    manifest = eight.manifest
    assert manifest.quantization is not None
    reached = {cost.layer.name for cost in manifest.architecture.costs(layer)}
    assert manifest.quantization.ranges.keys() < reached
    assert manifest.gate is not None
    assert manifest.gate.measured == 1.0
    assert manifest.gate.sensitivity.keys() == manifest.quantization.ranges.keys()
    assert manifest.golden.graph is not None
    assert manifest.golden.graph.allowed == engine_tolerance("int8", 1, manifest.output)
    assert {row.against for row in manifest.parity} == {"network", "graph"}
    assert check(eight, weights=loaded).passed


def test_int8_leaves_the_engines_their_share(int8_features: tuple[LoadedWeights, Bundle]) -> None:
    output = int8_features[1].manifest.output
    for num_views in (1, 10):
        allowed, own = FEATURE_TOLERANCES["int8"], engine_tolerance("int8", num_views, output)
        left = candidate_tolerance(num_views, output)
        assert isinstance(own, FeatureTolerance)
        assert isinstance(left, FeatureTolerance)
        assert left.error + own.error == pytest.approx(allowed.error)
        # Angles add up: twice a small cosine distance is the square of the angle.
        roots = [tolerance.cosine_distance**0.5 for tolerance in (left, own, allowed)]
        assert roots[0] + roots[1] == pytest.approx(roots[2])


def test_faults_before_the_layer_are_felt_and_those_behind_it_do_not_apply(
    weights: Weights, features_bundle: Bundle
) -> None:
    crops = features_bundle.manifest.views.crops

    def planted(layer: str) -> set[str]:
        return {name for name, _ in planted_faults(Subject(weights=weights, views=crops, output_layer=layer))}

    separation = features_bundle.manifest.golden.separation
    assert separation.keys() == planted("fc7") == EVERY_FAULT | {"tanh taken for ReLU"} & separation.keys()
    assert min(separation.values()) >= 10
    assert planted("pool5") == planted("fc7") - {"first linear layer fed channels last"}
    before_grouping = planted("pool5") - {"first grouped convolution ungrouped"}
    assert planted("pool1") == before_grouping
    assert planted("conv1") == before_grouping - {"LRN alpha times 5"}


def test_an_engine_of_another_network_fails_the_proof(
    weights: Weights, features_bundle: Bundle, tmp_path: Path
) -> None:
    bias = weights.tensors["fc7.bias"]
    changed = saved(with_tensor(weights, "fc7.bias", bias + np.float32(1e-2)), tmp_path / "changed.safetensors")
    other = export(changed, tmp_path / "other.bundle", ExportRequest(output_layer="fc7"))
    graph = other.read("model.onnx")
    mixed = republished(features_bundle, tmp_path / "mixed.bundle", {"model.onnx": graph})
    with open_engine(mixed, "onnxruntime") as engine:
        (row,) = prove(engine, mixed)
    assert not row.passed
    assert any("a feature is off by" in failure for failure in row.failures)
    assert any("a cosine distance is" in failure for failure in row.failures)
    assert not check(mixed).passed


def test_features_that_are_all_zero_prove_nothing(weights: Weights, tmp_path: Path) -> None:
    dead = with_tensor(weights, "fc7.bias", np.full_like(weights.tensors["fc7.bias"], -1e6))
    loaded = saved(dead, tmp_path / "weights.safetensors")
    with pytest.raises(ExportError, match="all features of relu7 are 0 on the golden images"):
        export(loaded, tmp_path / "a.bundle", ExportRequest(output_layer="relu7"))
    assert not (tmp_path / "a.bundle").exists()


def test_features_of_a_mean_over_views_are_the_mean_of_single_views(
    loaded: LoadedWeights, features_bundle: Bundle, tmp_path: Path
) -> None:
    center = export(loaded, tmp_path / "center.bundle", ExportRequest(views="center", output_layer="fc7"))
    images = golden_images()[:2]
    with open_engine(center, "onnxruntime") as one, open_engine(features_bundle, "onnxruntime") as ten:
        assert relative_errors(ten.run(images), one.run(images)).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_layer": "fc9"}, "fc9: not a layer that gives features; choose from conv1, .*relu7$"),
        ({"output_layer": "fc8"}, "fc8: not a layer that gives features"),
        ({"confidence": "validation"}, "accuracy and confidence need probabilities, but this bundle would return"),
        ({"precision": "int8", "data": Path()}, "would return features of fc7; leave out the labelled images"),
        ({"precision": "int8", "int8": Int8Request(keep_float=("fc8",))}, "fc8: not a layer that can be in int8"),
    ],
)
def test_what_features_cannot_have_is_refused(
    changes: dict[str, object], words: str, loaded: LoadedWeights, tmp_path: Path
) -> None:
    request = replace(ExportRequest(output_layer="fc7"), **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        export(loaded, tmp_path / "a.bundle", request)


def test_the_command_exports_them_and_names_the_next_one(run: Run, run_directory: Path, images: Path) -> None:
    Path("images").symlink_to(images)
    outcome = run("export", "--output-layer", "pool5", "--out", "p.bundle")
    assert outcome.code == 0
    assert "cosine distance" in outcome.err
    assert "top-1" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("next: ")]
    assert line == (
        "next: alexnet-deploy predict images/ --bundle p.bundle --features features.npy --output features.jsonl"
    )
    assert run(*line.removeprefix("next: alexnet-deploy ").split()).code == 0
    assert np.load("features.npy").shape == (12, open_bundle(Path("p.bundle")).manifest.output.size)
    shown = run("inspect", "p.bundle")
    assert "returns 1,152 features of pool5" in shown.out


@pytest.mark.parametrize("command", ["evaluate {} --data .", "embed {} project", "bench {} --loadgen offline"])
def test_commands_that_need_probabilities_say_so(command: str, run: Run, features_bundle: Bundle) -> None:
    outcome = run(*command.format(features_bundle.path).split())
    assert outcome.refused(2).startswith(f"{features_bundle.path}: returns features of fc7, but ")


def test_the_report_shows_features(int8_features: tuple[LoadedWeights, Bundle]) -> None:
    page = int8_features[1].read("report.html").decode()
    assert "features of <bdi>relu7</bdi>" in page
    assert "Cosine distance" in page
    assert "have the trained network’s features" in page
    assert "Mean cosine distance from the FP32 graph when only this layer is in int8" in page
    for word in ("Top-1", "KL, nats", "--data DIR", "top predictions"):
        assert word not in page, word


def test_a_failed_gate_publishes_nothing(
    sure: Weights, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_deploy.pipeline.int8.gate.INT8_COSINE_DISTANCE", 0.0)
    loaded = saved(sure, tmp_path / "weights.safetensors")
    request = ExportRequest(precision="int8", output_layer="pool1", int8=Int8Request(calibrate=drawn / "train"))
    with pytest.raises(ParityError, match="even with only one layer in int8, agreement of features"):
        export(loaded, tmp_path / "a.bundle", request)
    assert not (tmp_path / "a.bundle").exists()
