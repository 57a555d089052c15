import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import onnx
import pytest
from fake_nvidia import FakeCuda, install
from networks import narrowed, separating_weights

from alexnet_deploy.core.bundle.plans import PlanOptions, Profile, plan_file
from alexnet_deploy.core.bundle.quantization import Calibration, Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.model.architecture import Conv, Linear
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.registry import SPECS
from alexnet_deploy.engines.tensorrt import build as tensorrt_build
from alexnet_deploy.engines.tensorrt import library as tensorrt_library
from alexnet_deploy.engines.tensorrt.build import (
    BuildObserver,
    BuildProgress,
    BuiltPlan,
    build_plan,
    default_timing_cache,
)
from alexnet_deploy.engines.tensorrt.device_memory import find_gpu
from alexnet_deploy.engines.tensorrt.library import TRAITS, load_library, version_numbers
from alexnet_deploy.export.graph import build_graph

NAMES = [name for name in ARCHITECTURES if name != "tiny"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CONVOLUTIONS = {"fp32": "float32", "fp16": "float16", "int8": "float32"}


@pytest.fixture
def _rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")


Test = TypeVar("Test", bound=Callable[..., None])


def builds_for_real(test: Test) -> Test:
    """Mark a test that needs the TensorRT-RTX libraries, and skip it if they are missing."""
    marked: Test = pytest.mark.rtx(pytest.mark.usefixtures("_rtx")(test))
    return marked


def graph_of(weights: Weights, precision: Precision) -> bytes:
    """Return the graph; an int8 graph has made-up ranges, which the builder does not check."""
    quantization = None
    if precision == "int8":
        named = [layer.name for layer in weights.architecture.layers if isinstance(layer, Conv | Linear)]
        source = Calibration(method="minmax", num_images=1, images_sha256="0" * 64, graph_sha256="0" * 64)
        quantization = Quantization(ranges=dict.fromkeys(named, 100.0), rest="fp32", calibration=source)
    views = views_by_name("ten", weights.architecture.input_size)
    return build_graph(weights, views, precision, quantization).SerializeToString()


def build(graph: bytes, **options: object) -> BuiltPlan:
    profile = options.pop("profile", Profile(max_batch=8))
    return build_plan(graph, "tensorrt-rtx", profile, PlanOptions(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def graph(weights: Weights) -> bytes:
    return graph_of(weights, "fp16")


@builds_for_real
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_becomes_a_plan_of_the_graph_s_types(name: str, precision: Precision) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    graph = graph_of(weights, precision)
    built = build(graph)
    layers, nodes = built.record.layers, [node.op_type for node in onnx.load_from_string(graph).graph.node]
    assert layers.get("LRN float32", 0) == nodes.count("LRN")
    assert not any(kind.startswith("LRN") and kind != "LRN float32" for kind in layers)
    assert layers[f"CONVOLUTION {CONVOLUTIONS[precision]}"] == nodes.count("Conv")
    assert layers.get("QUANTIZE int8", 0) == nodes.count("QuantizeLinear")
    assert (precision == "int8") == ("QUANTIZE int8" in layers)
    assert layers["SOFTMAX float32"] == 1
    # The plan contains each weight, in a type at least as wide as the graph's.
    sizes = {"fp32": 4, "fp16": 2, "int8": 1}
    assert len(built.data) > sizes[precision] * weights.architecture.num_parameters


@builds_for_real
def test_record_says_what_the_plan_is(graph: bytes) -> None:
    profile, options = Profile(min_batch=2, opt_batch=3, max_batch=4), PlanOptions(workspace_bytes=1 << 30)
    built = build_plan(graph, "tensorrt-rtx", profile, options)
    record, version = built.record, load_library("tensorrt-rtx").version
    assert (record.backend, record.version, record.target) == ("tensorrt-rtx", version, "aot")
    assert record.file == plan_file("tensorrt-rtx", version, "aot") == f"plans/tensorrt-rtx-{version}-aot.engine"
    assert (record.profile, record.options, record.proof) == (profile, options, "pending")
    assert record.graph_sha256 == sha256(graph)
    assert record.build_seconds > 0
    # The plan is unchanged, and its bytes name its graph.
    assert built.data[:4] == b"vtrt"
    assert sha256(graph).encode() in built.data


@builds_for_real
def test_every_node_that_the_parser_refuses_is_named(graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        if node.name in ("relu1", "relu3"):
            node.op_type = "Frobnicate"
    with pytest.raises(BackendError, match=r"cannot read the graph: relu1 \(Frobnicate\): .*; relu3 \(Frobnicate\): "):
        build(model.SerializeToString())


@builds_for_real
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (100 * b"no graph", "cannot read the graph: the file: "),
        (b"", r"has the inputs \[\] and outputs \[\], expected images and probabilities"),
    ],
)
def test_what_is_no_graph_is_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        build(data)
    assert "\n" not in str(caught.value)


@builds_for_real
def test_graph_with_other_names_is_refused(graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    model.graph.input[0].name = model.graph.node[0].input[0] = "photos"
    with pytest.raises(BackendError, match=r"has the inputs \['photos'\]"):
        build(model.SerializeToString())


@builds_for_real
def test_workspace_that_is_too_small_is_refused_in_the_library_s_words(graph: bytes) -> None:
    with pytest.raises(BackendError, match=r"could not build the plan: .*workspace") as caught:
        build(graph, workspace_bytes=1 << 20)
    assert "\n" not in str(caught.value)


@builds_for_real
def test_what_rtx_cannot_do_is_refused(graph: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tensorrt-rtx cannot build version-compatible plans"):
        build(graph, is_version_compatible=True)
    with pytest.raises(UsageError, match="tensorrt-rtx has no timing cache"):
        build_plan(graph, "tensorrt-rtx", Profile(), PlanOptions(), timing_cache=tmp_path / "timing")
    assert default_timing_cache("tensorrt-rtx") is None
    assert build(graph, is_hardware_compatible=True).record.target == "aot"


@builds_for_real
def test_progress_rises_and_the_log_is_heard(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_build, "_POLL_SECONDS", 0.001)
    seen: list[BuildProgress] = []
    heard: list[str] = []
    build_plan(
        graph,
        "tensorrt-rtx",
        Profile(),
        PlanOptions(),
        observer=BuildObserver(on_progress=seen.append, debug=heard.append),
    )
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
    assert "Building engine" in {progress.phase for progress in seen} or len({progress.phase for progress in seen}) > 1
    assert any(line.startswith("info: Engine generation completed") for line in heard)
    assert not any("\n" in line for line in heard)


@builds_for_real
@pytest.mark.parametrize("raised", [KeyboardInterrupt, BrokenPipeError])
def test_what_progress_raises_ends_the_build(
    raised: type[BaseException], graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_build, "_POLL_SECONDS", 0.001)
    heard: list[str] = []

    def stop(progress: BuildProgress) -> None:
        raise raised

    with pytest.raises(raised):
        build_plan(
            graph,
            "tensorrt-rtx",
            Profile(),
            PlanOptions(),
            observer=BuildObserver(on_progress=stop, debug=heard.append),
        )
    assert any("Build canceled" in line for line in heard)


@builds_for_real
def test_ctrl_c_ends_the_build(graph: bytes) -> None:
    heard: list[str] = []
    interrupt = threading.Event()

    def debug(line: str) -> None:
        heard.append(line)
        if "Detected 1 inputs" in line and not interrupt.is_set():
            interrupt.set()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plan(graph, "tensorrt-rtx", Profile(), PlanOptions(), observer=BuildObserver(debug=debug))
    assert interrupt.is_set()
    assert not load_library("tensorrt-rtx").listeners


@builds_for_real
def test_two_builds_after_each_other_are_both_heard(graph: bytes) -> None:
    """A library keeps the first logger it gets: a second logger would get no lines."""
    for _ in range(2):
        heard: list[str] = []
        build_plan(graph, "tensorrt-rtx", Profile(), PlanOptions(), observer=BuildObserver(debug=heard.append))
        assert heard
        assert not any("differs from one already registered" in line for line in heard)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    install(monkeypatch, cuda)
    return cuda


@contextlib.contextmanager
def rtx_as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TensorRT's settings with RTX's builder, which has the same interface, to see which are passed."""
    library = replace(load_library("tensorrt-rtx"), backend="tensorrt", traits=TRAITS["tensorrt"], version="10.13.0")
    monkeypatch.setattr(tensorrt_build, "load_library", lambda backend: library)
    yield


@builds_for_real
def test_tensorrt_builds_for_the_gpu_that_is_there(
    graph: bytes, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rtx_as_tensorrt(monkeypatch):
        record = build_plan(graph, "tensorrt", Profile(), PlanOptions()).record
    assert record.target == "sm_90 NVIDIA H100 80GB HBM3"
    assert record.file == "plans/tensorrt-10.13.0-sm-90-nvidia-h100-80gb-hbm3.engine"
    assert not cuda.live


@builds_for_real
def test_tensorrt_without_a_gpu_is_refused(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(has_driver=False))
    with (
        rtx_as_tensorrt(monkeypatch),
        pytest.raises(BackendError, match="tensorrt builds a plan on the GPU that will run it: no NVIDIA GPU can be"),
    ):
        build_plan(graph, "tensorrt", Profile(), PlanOptions())


@builds_for_real
def test_compatible_options_reach_the_builder(graph: bytes, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """RTX's builder rejects both options, which proves that they were passed."""
    heard: list[str] = []
    with rtx_as_tensorrt(monkeypatch):
        options = PlanOptions(is_hardware_compatible=True)
        build_plan(graph, "tensorrt", Profile(), options, observer=BuildObserver(debug=heard.append))
        assert any("setHardwareCompatibilityLevel() is unsupported" in line for line in heard)
        with pytest.raises(BackendError, match=r"could not build the plan: .*libnvinfer_lean"):
            build_plan(graph, "tensorrt", Profile(), PlanOptions(is_version_compatible=True))


@builds_for_real
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2:DeprecationWarning")
def test_timing_cache_is_made_used_and_kept_outside(
    graph: bytes, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with rtx_as_tensorrt(monkeypatch):
        cache = default_timing_cache("tensorrt")
        assert cache == tmp_path / "alexnet-deploy/tensorrt-10.13.0-sm-90-nvidia-h100-80gb-hbm3.timing"
        for _ in range(2):
            heard: list[str] = []
            build_plan(
                graph,
                "tensorrt",
                Profile(),
                PlanOptions(),
                timing_cache=cache,
                observer=BuildObserver(debug=heard.append),
            )
            assert any("Global timing cache in use" in line for line in heard)
            assert cache.is_file()
        assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@builds_for_real
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2:DeprecationWarning")
def test_timing_cache_that_cannot_be_kept_costs_no_plan(
    graph: bytes, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    heard: list[str] = []
    with rtx_as_tensorrt(monkeypatch):
        cache = tmp_path / "file" / "timing"
        assert build_plan(
            graph, "tensorrt", Profile(), PlanOptions(), timing_cache=cache, observer=BuildObserver(debug=heard.append)
        ).data
    assert any("timings could not be written" in line for line in heard)


def test_library_that_is_not_there_is_refused_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "_loaded", {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"tensorrt-rtx is not installed; run `pip install [^`]*\[rtx\]'?`"):
        build(b"")


@pytest.mark.parametrize(
    ("module", "text", "words"),
    [
        ("tensorrt_too_old", "__version__ = '8.6.1'", r"8\.6\.1 is too old, 10\.3 or later is needed"),
        ("tensorrt_broken", "raise ImportError('libnvinfer.so.10:\\n no such file')", "cannot be loaded: libnvinfer"),
    ],
)
def test_library_too_old_or_broken_is_refused(
    module: str, text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tensorrt_library, "_loaded", {})
    monkeypatch.setattr(tensorrt_library, "SPECS", {"tensorrt": replace(SPECS["tensorrt"], modules=(module,))})
    with pytest.raises(BackendError, match=words) as caught:
        build_plan(b"", "tensorrt", Profile(), PlanOptions())
    assert "\n" not in str(caught.value)


def test_versions_compare_as_numbers() -> None:
    assert version_numbers("10.13.0.35") > version_numbers("10.3.0")
    assert version_numbers("11.4.0rc1") == (11, 4)


@pytest.mark.parametrize("batches", [(0, 1, 2), (2, 1, 3), (1, 5, 4)])
def test_profile_that_is_none_is_refused(batches: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="batch sizes must be 1 <= min <= opt <= max, got min"):
        Profile(min_batch=batches[0], opt_batch=batches[1], max_batch=batches[2])


def test_workspace_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="workspace_bytes must be 1 or more, got 0"):
        PlanOptions(workspace_bytes=0)


@pytest.mark.rtx
@pytest.mark.gpu
def test_real_gpu_changes_nothing_of_what_rtx_builds(graph: bytes) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    if find_gpu() is None:
        pytest.skip("there is no NVIDIA GPU that can be used on this machine")
    assert build(graph).record.target == "aot"
