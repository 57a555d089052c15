"""The tables under docs/tables on the whole road: train, export in three precisions, check, plan; and their faults."""

from pathlib import Path

import msgspec
import pytest
from commands import Run
from graphs import quantization_of, source_of
from networks import narrowed, separating_weights, shipped

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.plans import PlanOptions, Profile
from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.model.architecture import Architecture, Conv, Linear
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.table_text import architecture_as_toml, architecture_from_toml
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.proof.faults import planted_faults
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.engines.tensorrt.build import build_plan
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.pipeline.int8.calibration import Int8Request

TABLES = Path(__file__).parents[2] / "docs/tables"

# Parameters and multiply-adds, as the files say.
COSTS = {
    "cnn-f": (60_834_536, 724_005_632),
    "cnn-m": (102_908_520, 1_676_172_320),
    "keras-two-class": (62_380_346, 1_135_258_096),
    "small": (320_296, 9_606_144),
    "zfnet": (62_357_608, 1_168_032_896),
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
ROAD = ("cnn-f", "keras-two-class", "zfnet")

BY_ALL = {
    "red and blue swapped": "reorder_channels: a Gather that the table does not have",
    "mean dropped": "mean: is 0.0 at (0, 0, 0, 0)",
    "crop off by one": "view0.start: is 1 at (1,)",
    "mirror forgotten": "pixels_mirrored: the table's Gather is not in the graph",
    "one view doubled, another missing": "view1.start: is 0 at (1,)",
    "first linear layer fed channels last": "fc6.weight: is",
}
BY_KIND = {
    "LRN alpha times 5": "norm1: alpha is 0.0024",
    "pooling padded on the other side": "pool1: pads is [1, 1, 0, 0], the table says [0, 0, 1, 1]",
}
NAMED_BY_THE_AUDIT = {"cnn-f": BY_ALL | BY_KIND, "keras-two-class": BY_ALL, "zfnet": BY_ALL | BY_KIND}


def table(name: str) -> Architecture:
    return architecture_from_toml((TABLES / f"{name}.toml").read_text(), name)


@pytest.mark.parametrize("name", COSTS)
def test_a_table_is_of_the_size_that_its_file_says(name: str) -> None:
    found = table(name)
    parameters, multiply_adds = COSTS[name]
    assert (found.name, found.num_parameters, found.num_multiply_adds) == (name, parameters, multiply_adds)
    assert f"{parameters:,} parameters and {multiply_adds:,} multiply-adds" in (TABLES / f"{name}.toml").read_text()
    assert found.num_classes == (2 if name == "keras-two-class" else 1000)
    assert {path.stem for path in TABLES.iterdir()} == COSTS.keys()


def test_the_keras_head_comes_after_the_whole_single_tower() -> None:
    assert table("keras-two-class").layers[:-3] == ARCHITECTURES["single_tower"].layers


def a_sixteenth(architecture: Architecture) -> Architecture:
    """The same layers with a sixteenth of the outputs, for four classes."""
    layers = []
    for layer in architecture.layers:
        if isinstance(layer, Conv):
            layer = msgspec.structs.replace(layer, out_channels=layer.out_channels // 16)
        elif isinstance(layer, Linear) and layer is not architecture.layers[-1]:
            layer = msgspec.structs.replace(layer, out_features=layer.out_features // 16)
        layers.append(layer)
    return msgspec.structs.replace(architecture, layers=tuple(layers)).with_num_classes(4)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 drawn images: 16 show too little of what a network after two steps may see."""
    root = tmp_path_factory.mktemp("many")
    draw_folder(root, num_train=16, num_validation=1)
    return root / "train"


@pytest.mark.parametrize("name", ROAD)
def test_a_table_goes_the_whole_road(name: str, drawn: Path, many: Path, images: Path, run: Run) -> None:
    Path("own.toml").write_text(architecture_as_toml(a_sixteenth(table(name))))
    trained = run("train", drawn, "--arch", "own.toml", "--recipe", "drawn", "--epochs", 1, "--batch-size", 8)
    assert trained.code == 0, trained
    for precision in PRECISIONS:
        options = ("--calibrate", many) if precision == "int8" else ()
        exported = run("export", "--precision", precision, "--views", "center", *options)
        assert exported.code == 0, exported
        bundle = open_bundle(Path(exported.out.strip()))
        assert bundle.manifest.architecture == a_sixteenth(table(name))
        assert {row.backend for row in bundle.manifest.parity if row.precision == precision} == set(BACKENDS)
    checked = run("check")
    assert checked.code == 0, checked
    assert run("predict", images).out.count("\n") == 12


@pytest.mark.rtx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ROAD)
def test_a_plan_is_built_without_a_gpu(name: str, precision: Precision) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the TensorRT-RTX libraries are not installed")
    weights = separating_weights(a_sixteenth(table(name)))
    quantization = quantization_of(weights) if precision == "int8" else None
    source = source_of(weights, views_by_name("center", weights.architecture.input_size), precision, quantization)
    built = build_plan(source.data, "tensorrt-rtx", Profile(max_batch=8), PlanOptions())
    assert (built.record.target, built.record.proof) == ("aot", "pending")


@pytest.fixture(scope="module", params=ROAD)
def separating(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedWeights:
    name: str = request.param
    return shipped(separating_weights(narrowed(table(name))), tmp_path_factory.mktemp(name))[0]


def test_engines_agree_and_each_fault_is_felt_and_named(separating: LoadedWeights) -> None:
    bundle = open_bundle(separating.path.with_name("a.bundle"))
    result = check(bundle, weights=separating)
    assert result.passed
    assert {row.backend for row in result.rows} == {"torch", *BACKENDS}
    assert max(row.max_error for row in result.rows) <= 1e-5
    manifest, labels = bundle.manifest, separating.weights.labels
    named = NAMED_BY_THE_AUDIT[manifest.architecture.name]
    assert manifest.golden.separation.keys() == named.keys()
    for fault, faulty in planted_faults(Subject(weights=separating.weights, views=manifest.views.crops)):
        assert manifest.golden.separation[fault] >= 10, fault
        graph = encode_graph(build_graph(faulty.weights, faulty.views), facts_for_graph(manifest, labels))
        problems = audit_graph(graph, manifest, labels, separating.weights.tensors)
        assert any(problem.startswith(named[fault]) for problem in problems), problems


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", COSTS)
def test_a_table_at_full_size(
    name: str, precision: Precision, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    int8 = Int8Request(calibrate=many) if precision == "int8" else None
    loaded, bundle = shipped(separating_weights(table(name)), tmp_path, precision=precision, int8=int8)
    result = check(bundle, weights=loaded)
    weakest = min(bundle.manifest.golden.separation.items(), key=lambda item: item[1])
    with capsys.disabled():
        for row in result.rows:
            print(f"\n{name} {row.precision} {row.backend} against the {row.against}", end=": ")
            print(f"{row.max_error:.1e} {row.max_log_error:.1e}, top-1 {row.top1_agreement:.2%}", end="")
        print(f"\n{name} {precision} weakest fault: {weakest[0]}, {weakest[1]:.0f} times the tolerance")
    assert result.passed
    if precision == "fp32":
        assert weakest[1] >= 10
