"""Ten known mistakes: each is planted in a bundle with valid digests, and `check` finds it by name."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from faulty import NAMED_BY_THE_AUDIT, faulty_bundle, unguarded
from graphs import constants_of, edited_graph, set_constant
from networks import narrowed, renamed, republished, separating_weights, shipped, with_tensor

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import ParityError, WeightsError
from alexnet_deploy.core.golden.record import Tolerance
from alexnet_deploy.core.model.architecture import LocalNorm
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.labels import encode_labels
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.proof.faults import planted_faults
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph
from alexnet_deploy.pipeline.check import check


def test_this_network_can_have_every_fault(bundle: Bundle, loaded: LoadedWeights) -> None:
    subject = Subject(weights=loaded.weights, views=bundle.manifest.views.crops)
    assert {name for name, _ in planted_faults(subject)} == NAMED_BY_THE_AUDIT.keys()


@pytest.mark.parametrize("name", NAMED_BY_THE_AUDIT)
def test_planted_fault_fails_the_check_by_name_and_the_golden_vectors_ten_times_over(
    name: str, bundle: Bundle, loaded: LoadedWeights, tmp_path: Path
) -> None:
    faulty = faulty_bundle(bundle, loaded, name, tmp_path / "faulty.bundle")
    result = check(faulty, weights=loaded)
    assert not result.passed
    assert any(problem.startswith(NAMED_BY_THE_AUDIT[name]) for problem in result.problems), result.problems
    # A graph that fails the audit is not run by an engine; an engine would show the fault too.
    assert result.rows == ()
    assert any(line.startswith("no engine was run") for line in result.not_done)
    separation, tolerance = bundle.manifest.golden.separation[name], bundle.manifest.golden.tolerance
    assert separation >= 10
    for backend in BACKENDS:
        with unguarded(faulty, backend) as engine:
            (row,) = prove(engine, faulty)
        assert any("probability is off by" in failure for failure in row.failures)
        # The separation that was computed with torch is what the engine shows.
        moved = max(row.max_error / tolerance.probability, row.max_log_error / tolerance.log_probability)
        assert moved == pytest.approx(separation, rel=0.05)


def test_nan_weight_fails_the_check_by_name(bundle: Bundle, loaded: LoadedWeights, tmp_path: Path) -> None:
    def poison(model: onnx.ModelProto) -> None:
        values = constants_of(model.graph)["conv3.weight"].copy()
        values[0, 0, 0, 0] = np.nan
        set_constant(model, "conv3.weight", values)

    faulty = republished(bundle, tmp_path / "nan.bundle", {"model.onnx": edited_graph(bundle, poison)})
    result = check(faulty)
    assert "conv3.weight: holds 1 NaN or infinite value" in result.problems
    assert result.rows == ()
    for backend in BACKENDS:
        (row,) = prove(open_engine(faulty, backend), faulty)
        assert not row.passed


def test_nan_weight_cannot_be_saved_or_shipped(loaded: LoadedWeights) -> None:
    values = loaded.weights.tensors["fc7.bias"].copy()
    values[0] = np.nan
    with pytest.raises(WeightsError, match=r"fc7\.bias holds 1"):
        replace(loaded.weights, tensors={**loaded.weights.tensors, "fc7.bias": values})


def test_shuffled_labels_fail_the_check_by_name(bundle: Bundle, loaded: LoadedWeights, tmp_path: Path) -> None:
    shuffled = encode_labels(loaded.weights.labels[::-1])
    faulty = republished(bundle, tmp_path / "shuffled.bundle", {"labels.txt": shuffled})
    assert check(faulty).problems == ("labels: the graph's metadata does not match the manifest",)
    with_weights = check(faulty, weights=loaded)
    assert "labels.txt: the labels or their order differ from the weights" in with_weights.problems


def test_files_that_the_manifest_does_not_name_fail_the_check_by_name(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, copy)
    (copy / "model.onnx.data").write_bytes(b"weights")
    (copy / "a\x1b[31m\n.txt").touch()
    result = check(open_bundle(copy), backends=("onnxruntime",))
    assert result.problems == (
        r"a\x1b[31m\n.txt: is not in the manifest; remove it from the bundle",
        "model.onnx.data: is not in the manifest; remove it from the bundle",
    )
    assert not result.passed
    assert all(row.passed for row in result.rows)


def test_of_many_unnamed_files_the_check_names_the_first(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, copy)
    for number in range(25):
        (copy / f"{number:02}").touch()
    *named, rest = check(open_bundle(copy), backends=("onnxruntime",)).problems
    assert [problem.partition(":")[0] for problem in named] == [f"{number:02}" for number in range(20)]
    assert rest == "5 more files not in the manifest"


def test_bundle_that_allows_itself_everything_is_held_to_this_program_s_tolerance(
    bundle: Bundle, loaded: LoadedWeights, tmp_path: Path
) -> None:
    anything = Tolerance(probability=9.0, log_probability=999.0, top1_agreement=0.0)
    golden = msgspec.structs.replace(bundle.manifest.golden, tolerance=anything)
    manifest = msgspec.structs.replace(bundle.manifest, golden=golden)
    negated = with_tensor(loaded.weights, "fc8.weight", -loaded.weights.tensors["fc8.weight"])
    facts = facts_for_graph(manifest, loaded.weights.labels)
    graph = encode_graph(build_graph(negated, manifest.views.crops), facts)
    result = check(republished(bundle, tmp_path / "lax.bundle", {"model.onnx": graph}, manifest))
    assert not any(row.passed for row in result.rows)
    assert "golden.tolerance: differs from this program's tolerance for fp32" in result.problems


def test_manifest_s_own_table_is_held_against_the_weights(
    bundle: Bundle, loaded: LoadedWeights, tmp_path: Path
) -> None:
    """Graph and manifest agree on a network that was not trained; the change is too small for the golden vectors."""
    layers = tuple(
        msgspec.structs.replace(layer, alpha=layer.alpha * 1.00001) if isinstance(layer, LocalNorm) else layer
        for layer in bundle.manifest.architecture.layers
    )
    table = msgspec.structs.replace(bundle.manifest.architecture, layers=layers)
    manifest = msgspec.structs.replace(bundle.manifest, architecture=table)
    weights = replace(loaded.weights, architecture=table)
    graph = encode_graph(build_graph(weights, manifest.views.crops), facts_for_graph(manifest, weights.labels))
    result = check(republished(bundle, tmp_path / "near.bundle", {"model.onnx": graph}, manifest), weights=loaded)
    assert result.problems == ("architecture: the manifest's table differs from the weights",)


def test_manifest_is_held_against_the_weights_where_onnx_is_not_installed(
    bundle: Bundle, loaded: LoadedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled = encode_labels(loaded.weights.labels[::-1])
    faulty = republished(bundle, tmp_path / "shuffled.bundle", {"labels.txt": shuffled})
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    result = check(faulty, weights=loaded)
    assert result.problems == ("labels.txt: the labels or their order differ from the weights",)
    (not_done,) = result.not_done
    assert "`pip install onnx`" in not_done


def test_another_network_s_weights_in_the_graph_are_found(
    bundle: Bundle, loaded: LoadedWeights, tmp_path: Path
) -> None:
    other = separating_weights(loaded.weights.architecture, seed=1)
    facts = facts_for_graph(bundle.manifest, loaded.weights.labels)
    graph = encode_graph(build_graph(other, bundle.manifest.views.crops), facts)
    result = check(republished(bundle, tmp_path / "other.bundle", {"model.onnx": graph}), weights=loaded)
    assert any(problem.startswith("conv1.weight: is") for problem in result.problems)
    assert not any(row.passed for row in result.rows if row.backend != "torch")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny"])
def test_every_architecture_ships_and_feels_its_faults_when_narrow(name: str, tmp_path: Path) -> None:
    loaded, bundle = shipped(separating_weights(narrowed(ARCHITECTURES[name])), tmp_path)
    result = check(bundle, weights=loaded)
    assert result.passed
    assert {row.backend for row in result.rows} == {"torch", *BACKENDS}
    assert max(row.max_error for row in result.rows) <= 1e-5
    assert min(bundle.manifest.golden.separation.values()) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny"])
def test_every_architecture_ships_and_feels_its_faults_at_full_size(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, bundle = shipped(separating_weights(ARCHITECTURES[name]), tmp_path)
    result = check(bundle, weights=loaded)
    weakest = min(bundle.manifest.golden.separation.items(), key=lambda item: item[1])
    with capsys.disabled():
        for row in result.rows:
            print(f"\n{name} {row.backend} {row.max_error:.1e} {row.max_log_error:.1e}", end="")
        print(f"\n{name} weakest fault: {weakest[0]}, {weakest[1]:.0f} times the tolerance")
    assert result.passed
    assert max(row.max_error for row in result.rows) <= 1e-5
    assert weakest[1] >= 10


def test_engine_that_disagrees_is_not_published(
    loaded: LoadedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle is not published if an engine's results are wrong: here two classes are 1e-4 closer to each other."""
    from alexnet_deploy.engines.backends import openvino as openvino_engine

    run = openvino_engine._Runner.run

    def off(runner: object, images: np.ndarray) -> np.ndarray:
        answer = run(runner, images).copy()  # type: ignore[arg-type]
        rows = np.arange(len(answer))
        answer[rows, answer.argmax(1)] -= np.float32(1e-4)
        answer[rows, answer.argmin(1)] += np.float32(1e-4)
        return answer

    monkeypatch.setattr(openvino_engine._Runner, "run", off)
    from alexnet_deploy.pipeline.export import export

    with pytest.raises(ParityError, match="nothing was published: openvino, fp32: a probability is off by"):
        export(loaded, tmp_path / "new.bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_other_names_has_the_same_faults(loaded: LoadedWeights, bundle: Bundle) -> None:
    """Faults depend on the types of layers, not on their names."""
    tensors = {name.replace(".", "x."): tensor for name, tensor in loaded.weights.tensors.items()}
    weights = replace(loaded.weights, architecture=renamed(loaded.weights.architecture), tensors=tensors)
    planted = dict(planted_faults(Subject(weights=weights, views=bundle.manifest.views.crops)))
    assert planted.keys() == NAMED_BY_THE_AUDIT.keys()
    assert planted["first grouped convolution ungrouped"].weights.tensors["conv2x.weight"].shape[1] == (
        2 * tensors["conv2x.weight"].shape[1]
    )


def test_a_table_without_groups_has_no_such_fault(bundle: Bundle) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["torchvision"]))
    planted = dict(planted_faults(Subject(weights=weights, views=bundle.manifest.views.crops)))
    assert "first grouped convolution ungrouped" not in planted
