from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import Run
from fake_nvidia import FakeCuda, FakeTensorRt, fake_plan, install
from networks import republished

from alexnet_deploy.core.bundle.plans import PlanOptions, PlanRecord, Profile, plan_file
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.errors import BackendError, ParityError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.proof.golden_files import prove_decoder
from alexnet_deploy.engines.tensorrt import plan as tensorrt_engine
from alexnet_deploy.engines.tensorrt.build import BuildObserver, BuiltPlan
from alexnet_deploy.engines.tensorrt.library import TRAITS, Library
from alexnet_deploy.pipeline import plans as building
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.plans import PlanRequest, backend_that_builds_here, build, why_no_plan

H100 = "sm_90 NVIDIA H100 80GB HBM3"


@pytest.fixture
def bundle(short_bundle: Bundle) -> Bundle:
    return short_bundle


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A fake tensorrt with a fake GPU; a plan is the given graph after a header."""
    cuda = FakeCuda()
    install(monkeypatch, cuda)
    fake = FakeTensorRt(cuda, makes_graphs=False)
    fake.library = Library(
        backend="tensorrt", trt=fake, version="10.13.0.35", traits=TRAITS["tensorrt"], logger=None, listeners=[]
    )
    monkeypatch.setattr(tensorrt_engine, "load_library", lambda name: fake.library)
    monkeypatch.setattr(tensorrt_engine, "is_installed", lambda name: name == "tensorrt")
    monkeypatch.setattr(building, "is_installed", lambda name: name == "tensorrt")
    monkeypatch.setattr(building, "build_plan", lambda graph, *_, **__: built_of(graph, graph))
    monkeypatch.setattr(building, "default_timing_cache", lambda name: None)
    monkeypatch.setattr(building, "refuse_build", lambda *_: None)
    return fake


def built_of(graph: bytes, runs: bytes) -> BuiltPlan:
    """Return a plan that names `graph` but runs `runs`."""
    record = PlanRecord(
        file=plan_file("tensorrt", "10.13.0.35", H100),
        backend="tensorrt",
        version="10.13.0.35",
        target=H100,
        graph_sha256=sha256(graph),
        profile=Profile(),
        options=PlanOptions(),
        build_seconds=1.0,
        layers={"LRN float32": 2},
        proof="pending",
    )
    return BuiltPlan(data=fake_plan(runs, name=sha256(graph), min_batch=1, max_batch=16), record=record)


def contents(bundle: Bundle) -> dict[str, bytes]:
    return {path.relative_to(bundle.path).as_posix(): path.read_bytes() for path in bundle.path.rglob("*.*")}


def test_plan_that_can_run_is_proved_and_published_in_a_new_bundle(
    library: FakeTensorRt, bundle: Bundle, tmp_path: Path
) -> None:
    before = contents(bundle)
    built = build(bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"))
    (record,) = open_bundle(built.path).manifest.plans
    assert record.proof == "proved"
    *others, golden, golden_files = built.manifest.parity
    assert [(row.backend, row.images) for row in (golden, golden_files)] == [
        ("tensorrt", "golden"),
        ("tensorrt", "golden files"),
    ]
    assert tuple(others) == bundle.manifest.parity
    assert built.manifest.golden == bundle.manifest.golden
    assert prove_decoder(built).passed
    assert built.read(GRAPH) == bundle.read(GRAPH)
    built.verify()
    assert contents(bundle) == before


def test_plan_that_disagrees_is_not_published(
    library: FakeTensorRt, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tensorrt_engine._Runner.run
    monkeypatch.setattr(tensorrt_engine._Runner, "run", lambda self, images: np.roll(run(self, images), 1, axis=1))
    with pytest.raises(ParityError, match=r"nothing was published: plans/tensorrt-10.13.0.35-.*a probability is off"):
        build(bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"))
    assert not (tmp_path / "with-plan.bundle").exists()


def test_plan_that_the_gpu_here_cannot_open_stays_pending_and_says_why(
    library: FakeTensorRt, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_another_gpu(graph: bytes, *_: object, **__: object) -> BuiltPlan:
        built = built_of(graph, graph)
        record = msgspec.structs.replace(built.record, target="sm_120 NVIDIA GeForce RTX 5090")
        return BuiltPlan(data=built.data, record=record)

    monkeypatch.setattr(building, "build_plan", for_another_gpu)
    said: list[str] = []
    built = build(
        bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"), observer=BuildObserver(say=said.append)
    )
    assert [record.proof for record in built.manifest.plans] == ["pending"]
    assert built.manifest.parity == bundle.manifest.parity
    assert "proof pending" in said[-1]
    assert "sm_120 NVIDIA GeForce RTX 5090" in said[-1]


def test_plan_of_the_same_name_takes_the_place_of_the_older_one(
    library: FakeTensorRt, bundle: Bundle, tmp_path: Path
) -> None:
    first = build(bundle, tmp_path / "first.bundle", PlanRequest(backend="tensorrt"))
    second = build(first, tmp_path / "second.bundle", PlanRequest(backend="tensorrt"))
    assert len(second.manifest.plans) == 1
    assert [row.backend for row in second.manifest.parity].count("tensorrt") == 2


def test_check_runs_a_plan_where_it_can(
    library: FakeTensorRt, bundle: Bundle, loaded: LoadedWeights, tmp_path: Path
) -> None:
    built = build(bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"))
    result = check(built, weights=loaded)
    assert result.passed
    backends = ("torch", "openvino", "onnxruntime", "tensorrt")
    assert [(row.backend, row.images) for row in result.rows] == [
        (backend, images) for backend in backends for images in ("golden", "golden files")
    ]


def test_library_that_is_here_with_a_gpu_builds_by_default(library: FakeTensorRt) -> None:
    assert backend_that_builds_here() == "tensorrt"


def test_bundle_stays_as_it_was_published(library: FakeTensorRt, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the bundle itself"):
        build(bundle, bundle.path, PlanRequest(backend="tensorrt"))
    (tmp_path / "there.bundle").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        build(bundle, tmp_path / "there.bundle", PlanRequest(backend="tensorrt"))


def test_plan_of_another_graph_is_found_by_check_without_a_gpu(
    library: FakeTensorRt, bundle: Bundle, tmp_path: Path
) -> None:
    built = build(bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"))
    (record,) = built.manifest.plans
    other = msgspec.structs.replace(record, graph_sha256="0" * 64)
    forged = msgspec.structs.replace(built.manifest, plans=(other,))
    result = check(republished(built, tmp_path / "forged.bundle", {}, forged), backends=["openvino"])
    assert any(f"{record.file}: was built from another graph, 000000000000" in problem for problem in result.problems)
    assert not result.passed


def test_without_a_gpu_nothing_is_built_unasked_and_one_line_says_what_would(
    run: Run, latest: Path, run_directory: Path
) -> None:
    assert backend_that_builds_here() is None
    outcome = run("export", run_directory / "weights.safetensors")
    assert outcome.code == 0
    assert outcome.err.count(why_no_plan()) == 1
    outcome = run("build")
    assert outcome.code == 2
    assert "no GPU found: skipped the TensorRT plan" in outcome.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--max-batch", "4"], "choose a library with --plan"),
        (["--plan", "none", "--workspace", "64"], "choose a library with --plan"),
        (
            ["--plan", "tensorrt-rtx", "--max-batch", "4"],
            "batch sizes must be 1 <= min <= opt <= max, got min 1, opt 8, max 4",
        ),
        (["--plan", "tensorrt-rtx", "--version-compatible"], "tensorrt-rtx cannot build version-compatible plans"),
    ],
)
@pytest.mark.rtx
def test_options_that_build_nothing_are_refused(options: list[str], sentence: str, run: Run, latest: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the TensorRT-RTX libraries are not installed")
    outcome = run("build", *options)
    assert outcome.code == 2
    assert sentence in outcome.err


@pytest.mark.rtx
def test_plan_is_built_without_a_gpu_from_the_command_line(run: Run, latest: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the TensorRT-RTX libraries are not installed")
    outcome = run("build", "--plan", "tensorrt-rtx", "--max-batch", "32", "--out", "built.bundle")
    assert outcome.code == 0, outcome.err
    (record,) = open_bundle(Path("built.bundle")).manifest.plans
    assert (record.target, record.proof, record.profile.max_batch) == ("aot", "pending", 32)
    assert record.layers["LRN float32"] == 2
    assert "proof pending" in outcome.err
    outcome = run("check", "built.bundle")
    assert outcome.code == 0
    assert f"not done: {record.file} was not run" in outcome.err
    assert record.file in run("inspect", "built.bundle").out


def test_plan_whose_bytes_are_of_something_else_is_found_by_check_without_a_gpu(
    library: FakeTensorRt, bundle: Bundle, tmp_path: Path
) -> None:
    built = build(bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"))
    (record,) = built.manifest.plans
    for number, data in enumerate((bytes(100), fake_plan(b"another", name="0" * 64, min_batch=1, max_batch=16))):
        forged = republished(built, tmp_path / f"{number}.bundle", {record.file: data})
        result = check(forged, backends=["openvino"])
        assert any(
            f"{record.file}: its bytes do not contain model.onnx's digest" in problem for problem in result.problems
        )


def test_plan_that_is_not_there_is_found(library: FakeTensorRt, bundle: Bundle, tmp_path: Path) -> None:
    built = build(bundle, tmp_path / "with-plan.bundle", PlanRequest(backend="tensorrt"))
    ghost = msgspec.structs.replace(built.manifest.plans[0], file="plans/ghost.engine")
    forged = republished(built, tmp_path / "f.bundle", {}, msgspec.structs.replace(built.manifest, plans=(ghost,)))
    assert "plans/ghost.engine: is not in the manifest's files" in check(forged, backends=["openvino"]).problems


def test_force_moves_what_is_there_aside(library: FakeTensorRt, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "there.bundle"
    out.mkdir()
    build(bundle, out, PlanRequest(backend="tensorrt"), force=True)
    assert open_bundle(out).manifest.plans
    assert [path.name for path in tmp_path.glob("there.bundle.old-*")]


def test_library_that_is_missing_is_said_before_any_work(loaded: LoadedWeights, tmp_path: Path) -> None:
    said: list[str] = []
    request = ExportRequest(plan=PlanRequest(backend="tensorrt"))
    with pytest.raises(BackendError, match="tensorrt is not installed"):
        export(loaded, tmp_path / "a.bundle", request, observer=BuildObserver(say=said.append))
    assert said == []
