"""The whole workflow through the Python API: from a folder of images to a prediction, with public names only."""

from pathlib import Path

import numpy as np
import pytest
from networks import narrowed

import alexnet_deploy
from alexnet_deploy.core.model.family import ARCHITECTURES

NARROW = narrowed(ARCHITECTURES["paper"])
QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("api") / "run"
    return alexnet_deploy.train_network(drawn, run, arch=NARROW, settings=QUICK, device="cpu")


@pytest.fixture(scope="module")
def published(trained: Path) -> Path:
    return alexnet_deploy.export_bundle(trained.parent, trained.parents[1] / "a.bundle")


def test_images_become_weights_a_bundle_its_proof_and_predictions(drawn: Path, trained: Path, published: Path) -> None:
    result = alexnet_deploy.check_bundle(published, weights=trained, data=drawn / "val")
    assert isinstance(result, alexnet_deploy.CheckResult)
    assert result.passed
    assert {row.backend for row in result.rows} >= {"torch", "openvino", "onnxruntime"}
    assert {row.images for row in result.rows} == {"golden", "golden files", "8 given"}
    with alexnet_deploy.load(published) as predictor:
        assert len(list(predictor.predict([drawn / "val"]))) == 8


def test_a_run_that_has_ended_is_resumed_to_the_same_weights(drawn: Path, trained: Path) -> None:
    before = trained.read_bytes()
    again = alexnet_deploy.train_network(drawn, trained.parent, arch=NARROW, settings=QUICK, device="cpu", resume=True)
    assert again == trained
    assert again.read_bytes() == before


def test_a_run_is_never_overwritten(drawn: Path, trained: Path) -> None:
    with pytest.raises(alexnet_deploy.AlexNetDeployError, match="exist"):
        alexnet_deploy.train_network(drawn, trained.parent, arch=NARROW, settings=QUICK, device="cpu")


@pytest.mark.parametrize("options", [{"settings": {"epoch": 1}}, {"recipe": "folders"}, {"arch": "papers"}])
def test_names_that_do_not_exist_are_refused_before_anything_is_written(
    options: dict[str, object], drawn: Path, tmp_path: Path
) -> None:
    with pytest.raises(alexnet_deploy.UsageError):
        alexnet_deploy.train_network(drawn, tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_calibration_is_for_int8_only(drawn: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(alexnet_deploy.UsageError, match="int8"):
        alexnet_deploy.export_bundle(trained, tmp_path / "b.bundle", calibrate=drawn)


def test_a_bundle_that_is_damaged_does_not_pass(published: Path, tmp_path: Path) -> None:
    data = bytearray((published / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    copy = tmp_path / "copy.bundle"
    copy.mkdir()
    for path in published.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(published)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(bytes(data) if path.name == "model.onnx" else path.read_bytes())
    with pytest.raises(alexnet_deploy.IntegrityError):
        alexnet_deploy.check_bundle(copy)


def test_layers_are_checked_where_that_is_asked_for(published: Path) -> None:
    result = alexnet_deploy.check_bundle(published, backend="onnxruntime", layers=True)
    assert result.passed
    (table,) = result.layers
    assert table.backend == "onnxruntime"
    assert not alexnet_deploy.check_bundle(published, backend="onnxruntime").layers


def test_a_layer_s_features_are_exported(published: Path, trained: Path, tmp_path: Path) -> None:
    made = alexnet_deploy.export_bundle(trained, tmp_path / "f.bundle", output_layer="pool5", views="center")
    with alexnet_deploy.load(made, "onnxruntime") as predictor:
        assert predictor.run(np.zeros((1, 256, 256, 3), np.uint8)).shape[1] > 100
        with pytest.raises(alexnet_deploy.UsageError, match="features of pool5"):
            predictor.classify(np.zeros((256, 256, 3), np.uint8))
