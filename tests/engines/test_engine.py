import importlib.util
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from commands import HANGS_AFTER_S
from fake_nvidia import needs_gpu
from networks import narrowed, republished, separating_weights

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.errors import BackendError, BundleError, IntegrityError, UsageError, WrongAnswerError
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.core.process.ahead import map_ahead
from alexnet_deploy.engines import engine as engine_module
from alexnet_deploy.engines.backends.runner import StageTimes
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.engine import (
    Engine,
    GraphSource,
    Tuning,
    engine_of_graph,
    open_engine,
    open_graph,
)
from alexnet_deploy.engines.registry import BACKENDS, Backend, GraphBackend, installed_backends
from alexnet_deploy.engines.tensorrt.plan import backends_here

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 256, 256, 3), dtype=np.uint8)


def opened(name: str, bundle: Bundle, loaded: LoadedWeights, threads: int | None = None) -> Engine:
    if name == "torch":
        return open_reference(loaded.weights, bundle.manifest.views.crops)
    return open_engine(bundle, name, threads=threads)  # type: ignore[arg-type]


@pytest.fixture(params=["torch", *BACKENDS])
def engine(request: pytest.FixtureRequest, bundle: Bundle, loaded: LoadedWeights) -> Engine:
    return opened(request.param, bundle, loaded)


@pytest.mark.parametrize("batch", [1, 3, 16, 17, 21])
def test_batch_of_any_size_gives_a_distribution_for_each_image(engine: Engine, batch: int) -> None:
    probabilities = engine.run(IMAGES[:batch])
    assert probabilities.shape == (batch, 4)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)


def test_batch_that_is_split_gives_what_its_parts_give(engine: Engine) -> None:
    whole = engine.run(IMAGES)
    parts = np.concatenate([engine.run(IMAGES[start : start + 5]) for start in range(0, 21, 5)])
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_result_is_the_caller_s_and_outlives_the_next_run(engine: Engine) -> None:
    first = engine.run(IMAGES[:2])
    before = first.copy()
    engine.run(IMAGES[2:4])
    np.testing.assert_array_equal(first, before)
    assert first.flags.writeable
    assert first.flags.owndata


def test_images_are_not_written_to_and_need_not_be_contiguous(engine: Engine) -> None:
    images = IMAGES[:6].copy()
    images.flags.writeable = False
    np.testing.assert_allclose(engine.run(images[::2]), engine.run(IMAGES[:6][[0, 2, 4]]), atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES[:0],
        IMAGES[0],
        IMAGES[:1].astype(np.float32),
        IMAGES[:1, :227, :227],
        IMAGES[:1].transpose(0, 3, 1, 2),
    ],
    ids=["none", "one without a batch", "float", "cropped", "channels first"],
)
def test_images_of_another_shape_or_type_are_refused(engine: Engine, images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"images must be uint8 \(N, 256, 256, 3\), got "):
        engine.run(images)


def test_closed_engine_says_so_and_closes_twice(engine: Engine) -> None:
    with engine:
        engine.run(IMAGES[:1])
    engine.close()
    with pytest.raises(BackendError, match="this engine is closed"):
        engine.run(IMAGES[:1])


def test_info_says_what_runs(engine: Engine, bundle: Bundle) -> None:
    info = engine.info
    assert info.backend in ("torch", *BACKENDS)
    assert (info.device, info.precision, info.arithmetic) == ("cpu", "fp32", "float32")
    assert info.version[0].isdigit()
    assert info.bundle_sha256 == (None if info.backend == "torch" else bundle.sha256)


@pytest.mark.parametrize("name", BACKENDS)
def test_one_thread_gives_the_same_and_is_reported(name: Backend, bundle: Bundle, loaded: LoadedWeights) -> None:
    with open_engine(bundle, name, threads=1) as one, open_engine(bundle, name) as many:
        assert (one.info.num_threads, many.info.num_threads) == (1, 0)
        np.testing.assert_allclose(one.run(IMAGES[:2]), many.run(IMAGES[:2]), atol=1e-6)


def test_openvino_keeps_to_its_threads_and_to_float32(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_deploy.engines.backends import openvino as openvino_engine

    compiled = []
    compile_model = openvino_engine.openvino.Core.compile_model

    def spy(*arguments: object) -> object:
        compiled.append(compile_model(*arguments))
        return compiled[-1]

    monkeypatch.setattr(openvino_engine.openvino.Core, "compile_model", spy)
    open_engine(bundle, "openvino", threads=1)
    (model,) = compiled
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert str(model.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"


@pytest.mark.parametrize(
    ("tuned_for", "hint"), [("latency", "LATENCY"), ("throughput", "THROUGHPUT"), (None, "LATENCY")]
)
def test_openvino_is_tuned_for_what_is_asked_and_a_graph_alone_for_latency(
    tuned_for: Tuning | None, hint: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = []
    compile_model = openvino.Core.compile_model

    def spy(core: openvino.Core, model: object, device: str, settings: dict[str, object]) -> object:
        hints.append(settings["PERFORMANCE_HINT"])
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    if tuned_for is None:
        open_graph(
            GraphSource(name="x", data=bundle.read(GRAPH), precision="fp32", output=Output(size=4), num_views=10),
            "openvino",
        )
    else:
        open_engine(bundle, "openvino", tuned_for=tuned_for)
    assert hints == [hint]


class Recorder:
    """A runner with stages that records its batch sizes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        return np.full((len(images), 4), 0.25, dtype=np.float32)

    def time_stages(self, images: np.ndarray) -> StageTimes:
        self.batches.append(len(images))
        return StageTimes(upload_ms=1.0, compute_ms=2.0, download_ms=3.0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("num_views", "most", "best"), [(1, 160, 40), (10, 16, 4), (50, 3, 1), (200, 1, 1)])
def test_a_run_takes_160_views_at_most(num_views: int, most: int, best: int) -> None:
    runner = Recorder()
    source = GraphSource(name="x", data=b"", precision="fp32", output=Output(size=4), num_views=num_views)
    engine = engine_of_graph(
        source, [runner], backend="onnxruntime", version="1", device="cpu", arithmetic="float32", threads=None
    )
    images = np.zeros((2 * most + 1, 256, 256, 3), dtype=np.uint8)
    engine.run(images)
    assert runner.batches == [most, most, 1]
    engine.time_stages(images)
    assert runner.batches == [most, most, 1, most]
    assert engine.info.batch_size == best


def test_auto_takes_the_fastest_that_is_installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_backends() == ("openvino", "onnxruntime")
    assert open_engine(bundle).info.backend == "openvino"
    monkeypatch.setattr(engine_module, "installed_backends", lambda: ("onnxruntime",))
    assert open_engine(bundle).info.backend == "onnxruntime"


def test_backend_that_was_named_is_never_replaced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "installed_backends", lambda: ("onnxruntime",))
    with pytest.raises(BackendError, match="openvino is not installed; run `pip install openvino`"):
        open_engine(bundle, "openvino")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="no engine is installed"):
        open_engine(bundle)


def test_the_library_is_imported_while_the_graph_is_read(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    is_imported = threading.Event()
    source_of, import_module = engine_module.source_of, importlib.import_module

    def read(bundle: Bundle) -> GraphSource:
        assert is_imported.wait(HANGS_AFTER_S)
        return source_of(bundle)

    def imported(name: str) -> object:
        is_imported.set()
        return import_module(name)

    monkeypatch.setattr(engine_module, "source_of", read)
    monkeypatch.setattr(importlib, "import_module", imported)
    with open_engine(bundle, "openvino") as engine:
        assert engine.info.backend == "openvino"


def test_damage_is_told_before_a_library_that_is_missing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.path, tmp_path / "a.bundle")
    graph = tmp_path / "a.bundle" / GRAPH
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    monkeypatch.setattr(engine_module, "installed_backends", lambda: ("onnxruntime",))
    with pytest.raises(IntegrityError, match=r"model\.onnx: SHA-256 is "):
        open_engine(open_bundle(tmp_path / "a.bundle"), "openvino")


def test_what_is_no_backend_device_or_number_of_threads_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="'tflite' is not a backend"):
        open_engine(bundle, "tflite")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'tpu' is not a device; choose from auto, cpu, cuda and cuda:N"):
        open_engine(bundle, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="number of threads must be 1 or more, got 0"):
        open_engine(bundle, threads=0)


def test_device_that_a_backend_does_not_have_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="openvino does not run on cuda"):
        open_engine(bundle, "openvino", "cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for name in ("onnxruntime", "auto"):
        with pytest.raises(BackendError, match="does not run on cuda; replace it with `pip install onnxruntime-gpu`"):
            open_engine(bundle, name, "cuda")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_cuda_without_a_gpu_is_refused_by_onnxruntime_itself(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime runs on CUDA")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    with pytest.raises(BackendError, match="fallback to CPU EP has been explicitly disabled"):
        open_engine(bundle, "onnxruntime", "cuda")


@pytest.mark.parametrize(("device", "index"), [("cuda", "0"), ("cuda:0", "0"), ("cuda:3", "3")])
@pytest.mark.parametrize("taken", ["CUDAExecutionProvider", "CPUExecutionProvider"])
def test_cuda_is_what_was_really_taken(
    taken: str, device: str, index: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        can_fall_back = True

        def __init__(self, data: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
            assert providers == [("CUDAExecutionProvider", {"device_id": index, "use_tf32": "0"})]
            assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"  # type: ignore[attr-defined]

        def get_providers(self) -> list[str]:
            return [taken]

        def disable_fallback(self) -> None:
            self.can_fall_back = False

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    if taken == "CPUExecutionProvider":
        with pytest.raises(
            BackendError, match="onnxruntime uses CPUExecutionProvider instead of CUDAExecutionProvider"
        ):
            open_engine(bundle, "onnxruntime", device)
    else:
        info = open_engine(bundle, "onnxruntime", device).info
        assert (info.device, info.arithmetic) == (device, "float32")


def test_what_a_device_runs_is_what_has_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends_here(bundle) == backends_here(bundle, "cpu") == BACKENDS
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert backends_here(bundle, "cuda:1") == ("onnxruntime",)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BackendError, match=r"no installed backend runs it on cuda:1; .* `pip install onnxruntime-gpu`, or"
    ):
        backends_here(bundle, "cuda:1")
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "0"):
        with pytest.raises(UsageError, match=f"'{name}' is not a device; choose from auto, cpu, cuda and cuda:N"):
            backends_here(bundle, name)


@pytest.mark.gpu
@needs_gpu
def test_onnxruntime_on_cuda_says_what_it_says_on_the_cpu(bundle: Bundle) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime does not run on CUDA")
    with open_engine(bundle, "onnxruntime", "cuda") as cuda, open_engine(bundle, "onnxruntime", "cpu") as cpu:
        np.testing.assert_allclose(cuda.run(IMAGES), cpu.run(IMAGES), atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_graph_that_a_backend_cannot_load_is_one_sentence(name: GraphBackend, bundle: Bundle, tmp_path: Path) -> None:
    source = GraphSource(
        name="a graph", data=b"this is no graph", precision="fp32", output=Output(size=4), num_views=10
    )
    with pytest.raises(BackendError, match=f"a graph: {name} cannot load the graph") as caught:
        open_graph(source, name)
    assert "\n" not in str(caught.value)
    broken = republished(bundle, tmp_path / "broken.bundle", {"model.onnx": source.data})
    with pytest.raises(BundleError, match=r"broken\.bundle: model\.onnx was refused before loading: cannot be parsed"):
        open_engine(broken, name)


def test_onnxruntime_prints_nothing_of_what_it_raises(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    """C++ code would print a red line, bypassing Python's stderr, for an operator that its kernel rejects."""
    model = onnx.load_model_from_string(bundle.read("model.onnx"))
    (size,) = (one for node in model.graph.node if node.name == "norm1" for one in node.attribute if one.name == "size")
    size.i = 4
    manifest = bundle.manifest
    source = GraphSource(
        name="even.onnx",
        data=model.SerializeToString(),
        precision=manifest.precision,
        output=manifest.output,
        num_views=len(manifest.views.crops),
    )
    with pytest.raises(BackendError, match=r"^even\.onnx: onnxruntime cannot load the graph: "):
        open_graph(source, "onnxruntime")
    assert capfd.readouterr() == ("", "")


def test_reference_on_a_device_it_does_not_have_is_refused(loaded: LoadedWeights, bundle: Bundle) -> None:
    import torch

    with pytest.raises(UsageError, match="'mps' is not a device of torch"):
        open_reference(loaded.weights, bundle.manifest.views.crops, "mps")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(BackendError, match="no CUDA device found"):
        open_reference(loaded.weights, bundle.manifest.views.crops, "cuda")


def test_ten_views_are_the_average_of_each_view_alone() -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["paper"]))
    views = views_by_name("ten", 227)
    images = golden_images()[:3]
    alone = [open_reference(weights, [view]).run(images) for view in views]
    together = open_reference(weights, views).run(images)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)


@pytest.mark.parametrize("name", BACKENDS)
def test_threads_that_share_an_engine_get_their_own_answers(name: str, bundle: Bundle) -> None:
    batches = [np.roll(IMAGES[:2], 31 * number, axis=1) for number in range(24)]
    with open_engine(bundle, name, tuned_for="throughput") as engine:  # type: ignore[arg-type]
        expected = [engine.run(batch) for batch in batches]
        answers = list(map_ahead(engine.run, batches, threads=engine.info.num_streams + 2, ahead=24))
    assert len({answer.tobytes() for answer in expected}) == len(batches)
    assert all((answer == one).all() for answer, one in zip(answers, expected, strict=True))


def test_a_throughput_engine_says_what_a_latency_engine_says(bundle: Bundle) -> None:
    with open_engine(bundle, "openvino") as one, open_engine(bundle, "openvino", tuned_for="throughput") as many:
        assert one.info.num_streams == 1
        assert np.abs(one.run(IMAGES) - many.run(IMAGES)).max() <= 1e-6


def test_closing_waits_for_the_runs_that_go_on_and_lets_no_other_begin(bundle: Bundle) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def run(self, images: np.ndarray) -> np.ndarray:
            begun.set()
            assert may_end.wait(HANGS_AFTER_S)
            ended.set()
            return np.full((len(images), 2), 0.5, dtype=np.float32)

        def close(self) -> None:
            assert ended.is_set()

    with open_engine(bundle, "onnxruntime") as real:
        engine = Engine([Slow()], real.info, name="a graph", output=Output(size=2), max_batch=8)
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(engine.run, IMAGES)
        assert begun.wait(HANGS_AFTER_S)
        waiting = threads.submit(engine.run, IMAGES)
        closing = threads.submit(engine.close)
        may_end.set()
        assert (running.result(HANGS_AFTER_S) == 0.5).all()
        closing.result(HANGS_AFTER_S)
        # The run started before or after close(): it returns or raises, but does not hang.
        with suppress(BackendError):
            assert (waiting.result(HANGS_AFTER_S) == 0.5).all()
    with pytest.raises(BackendError, match="closed"):
        engine.run(IMAGES)


def test_two_threads_may_close_it(bundle: Bundle) -> None:
    with open_engine(bundle, "onnxruntime") as real:
        info = real.info
    both = threading.Barrier(2)

    class Slow:
        def run(self, images: np.ndarray) -> np.ndarray:
            raise AssertionError

        def close(self) -> None:
            time.sleep(0.05)

    engine = Engine([Slow(), Slow()], info, name="a graph", output=Output(size=2), max_batch=8)

    def close() -> None:
        both.wait(HANGS_AFTER_S)
        engine.close()

    with ThreadPoolExecutor(2) as threads:
        for closing in [threads.submit(close) for _ in range(2)]:
            closing.result(HANGS_AFTER_S)
    with pytest.raises(BackendError, match="closed"):
        engine.run(IMAGES)


class Answering:
    """A runner that changes a correct output."""

    def __init__(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.change = change

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.change(np.full((len(images), 4), 0.25, dtype=np.float32))

    def close(self) -> None:
        del self.change


def with_value(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(answer: np.ndarray) -> np.ndarray:
        if len(answer) > row:
            answer[row, 1] = value
        return answer

    return change


WRONG_ANSWERS = {
    "one row for all": (
        lambda answer: answer[:1],
        0,
        r"images\[0:8\] of 12: got float32 \(1, 4\), expected float32 \(8, 4\)",
    ),
    "a class too few": (lambda answer: answer[:, :3], 0, r"got float32 \(8, 3\), expected float32 \(8, 4\)"),
    "float64": (lambda answer: answer.astype(np.float64), 0, r"got float64 \(8, 4\), expected float32"),
    "NaN": (with_value(5, np.nan), 5, r"images\[5\] of 12: probabilities are NaN or infinite"),
    "infinity": (with_value(0, np.inf), 0, r"images\[0\] of 12: probabilities are NaN or infinite"),
    "both infinities": (lambda answer: answer * np.float32([np.inf, -np.inf, 0, 1]), 0, "NaN or infinite"),
    "sum": (with_value(2, 0.2511), 2, r"images\[2\] of 12: probabilities sum to 1\.0011, expected 1"),
    "negative": (
        lambda answer: answer + np.float32([-0.5, 0.5, 0, 0]),
        0,
        r"images\[0\] of 12: a probability is -0\.25",
    ),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_answer_that_is_not_probabilities_is_the_engine_s_error(name: str, bundle: Bundle) -> None:
    change, image, words = WRONG_ANSWERS[name]
    with open_engine(bundle, "onnxruntime") as real:
        info = real.info
    engine = Engine([Answering(change)], info, name="some.bundle", output=Output(size=4), max_batch=8)
    with pytest.raises(WrongAnswerError, match=words) as caught:
        engine.run(IMAGES[:12])
    assert str(caught.value).startswith(f"onnxruntime {info.version}: wrong answer from some.bundle for images[")
    assert caught.value.image == image
    assert pickle.loads(pickle.dumps(caught.value)).image == image


def test_wrong_answer_in_a_later_part_names_the_image_of_the_whole(bundle: Bundle) -> None:
    with open_engine(bundle, "onnxruntime") as real:
        info = real.info
    seen = []

    def change(answer: np.ndarray) -> np.ndarray:
        seen.append(len(answer))
        return answer if len(seen) == 1 else with_value(2, np.nan)(answer)

    engine = Engine([Answering(change)], info, name="some.bundle", output=Output(size=4), max_batch=8)
    with pytest.raises(WrongAnswerError, match=r"images\[10\] of 12"):
        engine.run(IMAGES[:12])
    assert seen == [8, 4]


def test_answer_at_the_bound_is_taken(bundle: Bundle) -> None:
    with open_engine(bundle, "onnxruntime") as real:
        info = real.info
    engine = Engine([Answering(with_value(0, 0.2509))], info, name="some.bundle", output=Output(size=4), max_batch=8)
    assert engine.run(IMAGES[:2])[0, 1] == np.float32(0.2509)
