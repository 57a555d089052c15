from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import HANGS_AFTER_S, Run
from fake_nvidia import FakeContext, FakeCuda, FakeEngine, FakeTensorRt, fake_plan, install, needs_gpu

from alexnet_deploy.core.bundle.plans import PlanOptions, PlanRecord, Profile, plan_file
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle, publishing
from alexnet_deploy.core.bundle.vocabulary import PlanBackend
from alexnet_deploy.core.errors import BackendError, IntegrityError, ParityError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.engines.backends.runner import StageTimes
from alexnet_deploy.engines.engine import Engine, open_engine
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.registry import installed_backends
from alexnet_deploy.engines.tensorrt import plan as tensorrt_engine
from alexnet_deploy.engines.tensorrt.build import build_plan
from alexnet_deploy.engines.tensorrt.library import TRAITS, Library, is_installed
from alexnet_deploy.engines.tensorrt.plan import backends_here, open_plan

H100 = "sm_90 NVIDIA H100 80GB HBM3"
IMAGES = np.random.default_rng(0).integers(0, 256, (21, 256, 256, 3), dtype=np.uint8)
PROFILE = Profile(min_batch=2, opt_batch=4, max_batch=5)
VERSIONS = {"tensorrt": "10.13.0.35", "tensorrt-rtx": "1.7.1.116"}


def record_of(bundle: Bundle, backend: PlanBackend, **changes: object) -> PlanRecord:
    record = PlanRecord(
        file=plan_file(backend, VERSIONS[backend], H100),
        backend=backend,
        version=VERSIONS[backend],
        target=H100,
        graph_sha256=bundle.manifest.files[GRAPH].sha256,
        profile=PROFILE,
        options=PlanOptions(),
        build_seconds=1.0,
        layers={"LRN float32": 2},
        proof="proved",
    )
    return msgspec.structs.replace(record, **changes)


def plan_of(record: PlanRecord, graph: bytes) -> bytes:
    profile = record.profile
    return fake_plan(graph, name=sha256(graph), min_batch=profile.min_batch, max_batch=profile.max_batch)


def with_plans(bundle: Bundle, out: Path, *plans: tuple[PlanRecord, bytes]) -> Bundle:
    """Publish a copy of the bundle with plans."""
    with publishing(out) as stage:
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        for record, data in plans:
            stage.write(record.file, data)
        records = tuple(record for record, _ in plans)
        stage.seal(msgspec.structs.replace(bundle.manifest, plans=records))
    return open_bundle(out)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    install(monkeypatch, cuda)
    return cuda


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> PlanBackend:
    return request.param


@pytest.fixture
def trt(backend: PlanBackend, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A fake of the library under test; the other library is not installed."""
    fake = FakeTensorRt(cuda, makes_graphs=backend == "tensorrt-rtx")
    fake.library = Library(
        backend=backend, trt=fake, version=VERSIONS[backend], traits=TRAITS[backend], logger=None, listeners=[]
    )
    monkeypatch.setattr(tensorrt_engine, "load_library", lambda name: fake.library)
    monkeypatch.setattr(tensorrt_engine, "is_installed", lambda name: name == backend)
    return fake


@pytest.fixture
def planned(bundle: Bundle, backend: PlanBackend, tmp_path: Path) -> Bundle:
    """A bundle with a plan of its own graph."""
    record = record_of(bundle, backend)
    return with_plans(bundle, tmp_path / "planned.bundle", (record, plan_of(record, bundle.read(GRAPH))))


@pytest.fixture
def engine(planned: Bundle, backend: PlanBackend, trt: FakeTensorRt) -> Engine:
    return open_engine(planned, backend)


@pytest.mark.parametrize(("device", "gpu"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_plan_runs_on_the_gpu_that_is_named(
    device: str, gpu: int, planned: Bundle, backend: PlanBackend, trt: FakeTensorRt, cuda: FakeCuda
) -> None:
    cuda.num_gpus = 3
    with open_engine(planned, device=device) as engine, ThreadPoolExecutor(1) as thread:
        assert engine.info.backend == backend
        thread.submit(engine.run, IMAGES[:2]).result(HANGS_AFTER_S)
    assert cuda.used - {0} == {gpu} - {0}
    assert backends_here(planned, device)[-1] == backend


def test_gpu_that_is_not_there_is_refused_in_a_sentence(
    planned: Bundle, backend: PlanBackend, trt: FakeTensorRt, run: Run
) -> None:
    for command in ("predict a.jpg --bundle", "check", "bench --seconds 0"):
        said = run(*command.split(), planned.path, "--backend", backend, "--device", "cuda:1").refused(3)
        assert said.endswith("no NVIDIA GPU can be used here: cuda:1 is not available: only cuda:0")


@pytest.mark.parametrize("batch", [1, 2, 5, 6, 11])
def test_batch_of_any_size_gives_what_the_graph_gives(engine: Engine, bundle: Bundle, batch: int) -> None:
    expected = open_engine(bundle, "onnxruntime").run(IMAGES[:batch])
    for _ in range(3):
        np.testing.assert_allclose(engine.run(IMAGES[:batch]), expected, atol=1e-6)


def test_each_part_goes_up_through_and_down(engine: Engine, cuda: FakeCuda) -> None:
    engine.run(IMAGES[:7])
    assert cuda.done == 2 * ["upload", "execute", "download"]


def test_stages_are_timed_one_by_one(engine: Engine, cuda: FakeCuda) -> None:
    assert engine.time_stages(IMAGES[:3]) == StageTimes(upload_ms=1.5, compute_ms=1.5, download_ms=1.5)
    # One complete run, which fills the buffers, then each stage separately between two events.
    stages = ["upload", "execute", "download"]
    assert cuda.done == [*stages, *(step for stage in stages for step in ("event", stage, "event"))]


def test_result_is_the_caller_s_and_outlives_the_next_run(engine: Engine) -> None:
    first = engine.run(IMAGES[:2])
    before = first.copy()
    engine.run(IMAGES[2:4])
    np.testing.assert_array_equal(first, before)
    assert first.flags.owndata


def test_images_of_the_batch_before_are_not_in_what_fills_one_up(engine: Engine, trt: FakeTensorRt) -> None:
    alone = engine.run(IMAGES[:1])
    engine.run(IMAGES[5:10])
    np.testing.assert_array_equal(engine.run(IMAGES[:1]), alone)


@pytest.mark.parametrize("backend", ["tensorrt"], indirect=True)
def test_batch_size_that_comes_again_becomes_one_launch(engine: Engine, cuda: FakeCuda, trt: FakeTensorRt) -> None:
    first, second = engine.run(IMAGES[:4]), engine.run(IMAGES[:4])
    cuda.done.clear()
    np.testing.assert_array_equal(engine.run(IMAGES[:4]), first)
    assert cuda.done == ["graph"]
    np.testing.assert_array_equal(second, first)
    # A different batch size in between, or different images, do not change the result.
    engine.run(IMAGES[4:7])
    np.testing.assert_array_equal(engine.run(IMAGES[4:8])[:3], engine.run(IMAGES[4:7]))
    np.testing.assert_array_equal(engine.run(IMAGES[:4]), first)
    assert trt.opened[0].settings == 3 * ["USER_MANAGED"]


@pytest.mark.parametrize("backend", ["tensorrt"], indirect=True)
def test_graph_that_cannot_be_captured_is_done_without(
    engine: Engine, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "cudaGraphInstantiate", lambda graph, flags: (1, None))
    first = engine.run(IMAGES[:4])
    for _ in range(3):
        np.testing.assert_array_equal(engine.run(IMAGES[:4]), first)
    assert "graph" not in cuda.done
    engine.close()
    assert not cuda.live


@pytest.mark.parametrize("backend", ["tensorrt-rtx"], indirect=True)
def test_rtx_makes_graphs_of_its_own(engine: Engine, cuda: FakeCuda, trt: FakeTensorRt) -> None:
    for _ in range(3):
        engine.run(IMAGES[:4])
    assert cuda.done == 3 * ["upload", "execute", "download"]
    assert trt.opened[0].settings == ["WHOLE_GRAPH_CAPTURE"]


def test_close_frees_everything_once(engine: Engine, cuda: FakeCuda, trt: FakeTensorRt) -> None:
    for _ in range(3):
        engine.run(IMAGES[:4])
    assert cuda.live
    engine.close()
    engine.close()
    assert not cuda.live
    assert trt.library is not None
    assert not trt.library.listeners
    with pytest.raises(BackendError, match="this engine is closed"):
        engine.run(IMAGES[:1])


def test_info_says_what_runs(engine: Engine, planned: Bundle, backend: PlanBackend) -> None:
    info = engine.info
    assert (info.backend, info.version, info.device) == (backend, VERSIONS[backend], H100)
    assert (info.precision, info.arithmetic, info.bundle_sha256) == ("fp32", "float32", planned.sha256)


def test_auto_takes_a_plan_that_fits_this_machine(planned: Bundle, backend: PlanBackend, trt: FakeTensorRt) -> None:
    assert open_engine(planned).info.backend == backend
    assert open_engine(planned, device="cuda").info.backend == backend
    assert open_engine(planned, device="cpu").info.device == "cpu"
    assert open_engine(planned, threads=1).info.device == "cpu"
    assert trt.library is not None
    trt.library = replace(trt.library, version="11.0.0")
    assert open_engine(planned).info.device == "cpu"


def test_of_several_plans_the_one_that_fits_is_opened(
    bundle: Bundle, backend: PlanBackend, trt: FakeTensorRt, tmp_path: Path
) -> None:
    fits = record_of(bundle, backend)
    other = record_of(bundle, backend, target="sm_89 NVIDIA L4", file="plans/l4.engine", profile=Profile())
    graph = bundle.read(GRAPH)
    both = with_plans(bundle, tmp_path / "two.bundle", (other, plan_of(other, graph)), (fits, plan_of(fits, graph)))
    with open_engine(both, backend) as engine:
        assert engine.info.device == H100
    assert trt.opened[0].max_batch == PROFILE.max_batch
    with pytest.raises(BackendError, match=r"was built for sm_89 NVIDIA L4"):
        open_plan(both, backend, other.file)
    with pytest.raises(BackendError, match=rf"contains no plans/none\.engine for {backend}"):
        open_plan(both, backend, "plans/none.engine")


def test_byte_that_was_changed_is_found_first(planned: Bundle, backend: PlanBackend, trt: FakeTensorRt) -> None:
    file = planned.path / planned.manifest.plans[0].file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"\.engine: SHA-256"):
        open_engine(planned, backend)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=r"\.engine: [\d,]+ bytes, expected [\d,]+"):
        open_engine(planned, backend)
    assert not trt.opened


def test_plan_of_another_graph_under_the_right_name_is_refused(
    bundle: Bundle, backend: PlanBackend, trt: FakeTensorRt, tmp_path: Path
) -> None:
    record = record_of(bundle, backend, graph_sha256="0" * 64)
    wrong = with_plans(bundle, tmp_path / "wrong.bundle", (record, plan_of(record, bundle.read(GRAPH))))
    with pytest.raises(
        BackendError,
        match=rf"{record.file}: was built from another graph, 000000000000.*rebuild it with .*--plan {backend}`",
    ):
        open_engine(wrong, backend)
    assert not trt.opened


def test_plan_of_another_graph_under_a_record_of_this_one_is_refused(
    bundle: Bundle, backend: PlanBackend, trt: FakeTensorRt, cuda: FakeCuda, tmp_path: Path
) -> None:
    record = record_of(bundle, backend)
    data = fake_plan(bundle.read(GRAPH), name="f" * 64, min_batch=2, max_batch=5)
    wrong = with_plans(bundle, tmp_path / "wrong.bundle", (record, data))
    with pytest.raises(BackendError, match=r"its bytes name the graph ffffffffffff"):
        open_engine(wrong, backend)
    assert not cuda.live


def test_truncated_plan_with_a_right_digest_is_refused(
    bundle: Bundle, backend: PlanBackend, trt: FakeTensorRt, cuda: FakeCuda, tmp_path: Path
) -> None:
    record = record_of(bundle, backend)
    half = plan_of(record, bundle.read(GRAPH))[:5000]
    cut = with_plans(bundle, tmp_path / "cut.bundle", (record, half))
    with pytest.raises(
        BackendError, match=r"\.engine: .* cannot open it: Serialization assertion failed: size"
    ) as caught:
        open_engine(cut, backend)
    assert "\n" not in str(caught.value)
    assert "`alexnet-deploy build" in str(caught.value)
    assert not cuda.live


@pytest.mark.parametrize("backend", ["tensorrt-rtx"], indirect=True)
def test_what_the_library_finds_invalid_is_named(planned: Bundle, trt: FakeTensorRt, cuda: FakeCuda) -> None:
    trt.validity = (2, 1 | 32)
    with pytest.raises(BackendError, match="reports it as invalid: VERSION_MISMATCH, MALFORMED_ENGINE"):
        open_engine(planned, "tensorrt-rtx")
    assert not cuda.live
    trt.validity = (1, 0)
    open_engine(planned, "tensorrt-rtx").close()


def test_plan_of_another_release_is_refused(planned: Bundle, backend: PlanBackend, trt: FakeTensorRt) -> None:
    assert trt.library is not None
    trt.library = replace(trt.library, version="10.2.0")
    with pytest.raises(
        BackendError, match=rf"was built by {backend} {VERSIONS[backend]}, but 10.2.0 is installed; .*build"
    ):
        open_engine(planned, backend)
    assert not trt.opened


@pytest.mark.parametrize("backend", ["tensorrt"], indirect=True)
def test_version_compatible_plan_opens_on_later_releases_alone(
    bundle: Bundle, trt: FakeTensorRt, tmp_path: Path
) -> None:
    record = record_of(bundle, "tensorrt", options=PlanOptions(is_version_compatible=True))
    planned = with_plans(bundle, tmp_path / "planned.bundle", (record, plan_of(record, bundle.read(GRAPH))))
    assert trt.library is not None
    trt.library = replace(trt.library, version="11.4.0.106")
    open_engine(planned, "tensorrt").close()
    assert trt.allowed_code == [True]
    trt.library = replace(trt.library, version="10.9.0.34")
    with pytest.raises(BackendError, match=r"but 10\.9\.0\.34 is installed"):
        open_engine(planned, "tensorrt")


def test_code_in_a_plan_is_not_run_where_none_is_needed(engine: Engine, trt: FakeTensorRt) -> None:
    assert trt.allowed_code == [False]


@pytest.mark.parametrize(
    "case",
    [
        ({"target": "sm_89 NVIDIA L4"}, (9, 0), False),
        ({"target": "sm_89 NVIDIA L4", "options": PlanOptions(is_hardware_compatible=True)}, (9, 0), True),
        ({"target": "aot"}, (8, 0), True),
        ({"target": "aot"}, (7, 5), False),
        ({"target": "sm_80 NVIDIA A100", "options": PlanOptions(is_hardware_compatible=True)}, (7, 5), False),
    ],
)
@pytest.mark.usefixtures("trt")
def test_plan_for_another_gpu_is_refused(
    case: tuple[dict[str, object], tuple[int, int], bool],
    bundle: Bundle,
    backend: PlanBackend,
    cuda: FakeCuda,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes, gpu, fits = case
    name = type("Name", (), {"name": b"NVIDIA H100 80GB HBM3", "major": gpu[0], "minor": gpu[1]})()
    monkeypatch.setattr(cuda, "cudaGetDeviceProperties", lambda device: (0, name))
    record = record_of(bundle, backend, **changes)
    planned = with_plans(bundle, tmp_path / "planned.bundle", (record, plan_of(record, bundle.read(GRAPH))))
    if fits:
        open_engine(planned, backend).close()
    else:
        with pytest.raises(BackendError, match=r"but this GPU is sm_\d\d NVIDIA H100.*`alexnet-deploy build"):
            open_engine(planned, backend)
    assert not cuda.live


def test_pending_plan_is_proved_at_every_opening(
    bundle: Bundle, backend: PlanBackend, trt: FakeTensorRt, cuda: FakeCuda, tmp_path: Path
) -> None:
    record = record_of(bundle, backend, proof="pending")
    planned = with_plans(bundle, tmp_path / "planned.bundle", (record, plan_of(record, bundle.read(GRAPH))))
    with open_engine(planned, backend) as engine:
        assert cuda.done
        assert all(row.passed for row in prove(engine, planned))


def test_pending_plan_that_says_something_else_is_refused_and_freed(
    bundle: Bundle, backend: PlanBackend, trt: FakeTensorRt, cuda: FakeCuda, tmp_path: Path
) -> None:
    """The correct name and shapes, but one changed weight."""
    import onnx

    model = onnx.load_from_string(bundle.read(GRAPH))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc8.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32([1, 0, 0, 0]), "fc8.bias"))
    record = record_of(bundle, backend, proof="pending")
    data = fake_plan(model.SerializeToString(), name=record.graph_sha256, min_batch=2, max_batch=5)
    faulty = with_plans(bundle, tmp_path / "faulty.bundle", (record, data))
    with pytest.raises(
        ParityError, match=rf"on {H100} it disagrees with the trained network on the golden images: .*is off by"
    ):
        open_engine(faulty, backend)
    assert not cuda.live


def test_bundle_without_a_plan_says_how_to_make_one(bundle: Bundle, backend: PlanBackend) -> None:
    with pytest.raises(BackendError, match=rf"contains no plan for {backend}; build one with `alexnet-deploy build "):
        open_engine(bundle, backend)


def test_plan_without_a_gpu_is_refused_and_never_replaced(
    planned: Bundle, backend: PlanBackend, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeCuda(has_driver=False))
    with pytest.raises(
        BackendError, match=f"{backend} needs an NVIDIA GPU to run plans: no NVIDIA GPU can be used here"
    ):
        open_engine(planned, backend)
    assert open_engine(planned).info.device == "cpu"


def test_library_that_is_not_there_is_refused(planned: Bundle) -> None:
    if is_installed("tensorrt"):
        pytest.skip("tensorrt is installed here")
    record = record_of(planned, "tensorrt", file="plans/another.engine")
    with_plan = with_plans(planned, planned.path.with_name("other.bundle"), (record, b"a plan"))
    with pytest.raises(BackendError, match="tensorrt is not installed; run `pip install tensorrt`"):
        open_engine(with_plan, "tensorrt")


def test_plans_have_one_device_and_no_threads(planned: Bundle, backend: PlanBackend) -> None:
    with pytest.raises(UsageError, match=f"{backend} does not run on the cpu"):
        open_engine(planned, backend, "cpu")
    with pytest.raises(UsageError, match="CPU threads cannot be limited"):
        open_engine(planned, backend, threads=2)
    assert backend not in installed_backends()


def test_plan_s_file_that_leaves_plans_is_refused(planned: Bundle) -> None:
    with pytest.raises(ValueError, match=r"^invalid plan path '\.\./model\.onnx': it must be plans/NAME\.engine$"):
        record_of(planned, "tensorrt", file="../model.onnx")


@pytest.mark.rtx
def test_fake_has_no_name_that_rtx_has_not() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    for fake, real in ((FakeEngine, trt.ICudaEngine), (FakeContext, trt.IExecutionContext), (FakeTensorRt, trt)):
        for name in (name for name in vars(fake) if not name.startswith("_")):
            assert hasattr(real, name), name
    for name in ("engine_host_code_allowed", "get_engine_validity", "deserialize_cuda_engine"):
        assert hasattr(trt.Runtime, name), name
    assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    for name, bit in FakeTensorRt.EngineInvalidityDiagnostics.__members__.items():
        assert int(trt.EngineInvalidityDiagnostics.__members__[name]) == bit


@pytest.mark.rtx
def test_real_rtx_finds_a_plan_that_is_none_malformed(bundle: Bundle, cuda: FakeCuda, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    built = build_plan(bundle.read(GRAPH), "tensorrt-rtx", Profile(max_batch=8), PlanOptions())
    for number, data in enumerate((built.data[:60], bytes(len(built.data)))):
        planned = with_plans(bundle, tmp_path / f"{number}.bundle", (built.record, data))
        with pytest.raises(BackendError, match=r"1\.\d.* reports it as invalid: MALFORMED_ENGINE; .*build"):
            open_engine(planned, "tensorrt-rtx")
        assert not cuda.live


@pytest.mark.rtx
def test_real_rtx_plan_needs_a_gpu_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("there is an NVIDIA driver here")
    built = build_plan(bundle.read(GRAPH), "tensorrt-rtx", Profile(max_batch=8), PlanOptions())
    planned = with_plans(bundle, tmp_path / "planned.bundle", (built.record, built.data))
    with pytest.raises(BackendError, match="tensorrt-rtx needs an NVIDIA GPU to run plans: ") as caught:
        open_engine(planned, "tensorrt-rtx")
    assert "\n" not in str(caught.value)
    assert open_engine(planned).info.device == "cpu"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_real_gpu_says_what_the_trained_network_said(bundle: Bundle, backend: PlanBackend, tmp_path: Path) -> None:
    if not is_installed(backend):
        pytest.skip(f"{backend} is not installed")
    built = build_plan(bundle.read(GRAPH), backend, PROFILE, PlanOptions())
    planned = with_plans(bundle, tmp_path / "planned.bundle", (built.record, built.data))
    expected = open_engine(bundle, "onnxruntime").run(IMAGES)
    with open_engine(planned, backend) as engine:
        for _ in range(3):
            np.testing.assert_allclose(engine.run(IMAGES), expected, atol=1e-5)
    cut = with_plans(bundle, tmp_path / "cut.bundle", (built.record, built.data[: len(built.data) // 2]))
    with pytest.raises(BackendError, match=r"reports it as invalid|cannot open it"):
        open_engine(cut, backend)
