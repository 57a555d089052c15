"""The contract of every engine, and how a bundle is opened on a backend.

images         uint8    (N, 256, 256, 3)   RGB, upright, N of 1 or more
probabilities  float32  (N, K)             each row sums to 1
features       float32  (N, D)             instead of probabilities, from a bundle of features
"""

import importlib
import os
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeAlias, TypeGuard

import numpy as np

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.bundle.vocabulary import PLAN_BACKENDS, PlanBackend, Precision
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.process.machine import has_vnni, processor_quota
from alexnet_deploy.engines.answers import Asked, refuse_wrong_answer
from alexnet_deploy.engines.backends.runner import LayeredRunner, Runner, StagedRunner, StageTimes
from alexnet_deploy.engines.batching import batch_size_for, max_batch_for
from alexnet_deploy.engines.graph_guard import refuse_foreign_graph
from alexnet_deploy.engines.lifetime import refuse_inherited_library, refuse_other_process, register_engine
from alexnet_deploy.engines.registry import BACKENDS, SPECS, Backend, GraphBackend, installed_backends, remedy_for

Device: TypeAlias = str
"""`cpu`, `cuda` for the first NVIDIA GPU in CUDA_VISIBLE_DEVICES, or `cuda:N` for another one; N is 0 or more."""
Tuning: TypeAlias = Literal["latency", "throughput"]
"""How CPU cores are used: all of them for one run, or several concurrent runs."""

_CUDA = re.compile(r"cuda(?::(\d{1,4}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine actually runs on."""

    backend: str
    """A value of Backend, or torch."""
    version: str
    """Version of the backend's library."""
    device: str
    """Device name, as the backend reports it."""
    precision: Precision
    """Precision of the graph."""
    arithmetic: str
    """Number type of its multiplications, which may be wider than the graph's precision."""
    num_threads: int
    """CPU threads it may use; 0 if the backend chooses."""
    num_streams: int
    """Maximum number of concurrent runs; further runs wait."""
    batch_size: int
    """Smallest batch that reaches full throughput."""
    bundle_sha256: str | None
    """Digest of the bundle's manifest; None for the trained network, which has no bundle."""

    @property
    def words(self) -> str:
        """Backend, version, device and arithmetic as one text."""
        return f"{self.backend} {self.version}, {self.device}, {self.arithmetic}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSource:
    """A graph for a backend to load: its verified bytes and their description."""

    name: str
    """Name in error messages."""
    data: bytes
    """The ONNX file."""
    precision: Precision
    """Precision of the graph."""
    output: Output
    """What it returns."""
    num_views: int
    """Views per image."""
    bundle_sha256: str | None = None
    """Digest of the manifest of its bundle; None without a bundle."""
    needs_vnni: bool = False
    """Whether it is an int8 graph that OpenVINO computes wrongly on a CPU without VNNI."""


class Engine:
    """Runs a network: images in, probabilities or features out, in any batch size, from any thread, until closed.

    It works in the process that opened it. In a fork of that process everything but close() raises BackendError.
    """

    def __init__(
        self, runners: Sequence[Runner], info: EngineInfo, *, name: str, output: Output, max_batch: int
    ) -> None:
        """Create an engine from one runner per stream; the engine closes them.

        `name` identifies the bundle, plan or network in error messages.
        """
        self._name = name
        self._idle: queue.SimpleQueue[Runner | None] = queue.SimpleQueue()
        for runner in runners:
            self._idle.put(runner)
        self._num_open = len(runners)
        self._closing = threading.Lock()
        self._max_batch = max_batch
        self._clock = threading.Lock()
        self._busy_seconds = 0.0
        self._process = os.getpid()
        self.info = info
        self.output = output
        register_engine(self)

    @property
    def busy_seconds(self) -> float:
        """Total time of all runs so far, in seconds; concurrent runs count separately."""
        return self._busy_seconds

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 (N, K), for `images`, uint8 (N, 256, 256, 3), RGB, N of 1 or more.

        An engine of features returns them instead, float32 (N, D). The caller owns the result. A batch above the
        engine's limit is split. If all streams are busy with runs of other threads, the call waits. Raises UsageError
        for images of another shape or type, BackendError after close(), in a forked process, or where the backend
        fails, and WrongAnswerError where the output is not valid probabilities, or not finite features.
        """
        expected = (IMAGE_SIZE, IMAGE_SIZE, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or not len(images):
            raise UsageError(f"images must be uint8 (N, 256, 256, 3), got {images.dtype} {images.shape}")
        who = f"{self.info.backend} {self.info.version}: wrong answer from {self._name}"
        outputs = np.empty((len(images), self.output.size), dtype=np.float32)
        with self._taken() as runner:
            started = time.perf_counter()
            for start in range(0, len(images), self._max_batch):
                part = np.ascontiguousarray(images[start : start + self._max_batch])
                answer = runner.run(part)
                asked = Asked(start=start, num_images=len(part), num_in_all=len(images))
                refuse_wrong_answer(answer, asked, self.output, who)
                # Copied: a backend may write its next result into the same buffer.
                outputs[start : start + len(part)] = answer
            with self._clock:
                self._busy_seconds += time.perf_counter() - started
        return outputs

    def time_stages(self, images: np.ndarray) -> StageTimes | None:
        """Return the time of each stage of one run; None for a device without its own memory.

        `images` are as in run(); at most one batch of them is used. Raises what run() raises.
        """
        with self._taken() as runner:
            return runner.time_stages(images[: self._max_batch]) if isinstance(runner, StagedRunner) else None

    def run_layers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return all outputs of the graph by name, unchecked; of the trained network the output of each layer.

        `images` are as in run(), at most one batch of them; the caller owns the arrays, whose first axis is N or V * N.
        Raises BackendError as run() does, and for a plan, to which no outputs can be added.
        """
        with self._taken() as runner:
            if not isinstance(runner, LayeredRunner):
                raise BackendError(f"{self.info.backend}: a plan has no outputs of layers, and none can be added to it")
            outputs = runner.run_layers(np.ascontiguousarray(images[: self._max_batch]))
            return {name: values.copy() for name, values in outputs.items()}

    def refuse_fork(self) -> None:
        """Raise BackendError in a process that was forked from the one that opened this engine."""
        refuse_other_process(self.info.backend, self._process)

    @contextmanager
    def _taken(self) -> Iterator[Runner]:
        self.refuse_fork()
        runner = self._idle.get()
        try:
            if runner is None:
                raise BackendError(f"{self.info.backend}: this engine is closed")
            yield runner
        finally:
            self._idle.put(runner)

    def run_all(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Return the outputs of all batches in order, as run() does; raises what run() raises."""
        return np.concatenate([self.run(images) for images in batches])

    def close(self) -> None:
        """Release the engine's resources after running calls have ended; a second call does nothing.

        In a forked process it does nothing: the resources belong to the parent.
        """
        if os.getpid() != self._process:
            return
        with self._closing:
            if not self._num_open:
                return
            while self._num_open:
                runner = self._idle.get()
                self._num_open -= 1
                assert runner is not None
                runner.close()
            # Wakes waiting calls, and every later call, to find the engine closed.
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Opener(Protocol):
    """The function open_graph of a module in backends/."""

    def __call__(self, source: GraphSource, *, device: Device, threads: int | None, tuned_for: Tuning) -> Engine:
        """Open a graph on the given device; raises BackendError where it cannot be loaded or run there."""
        ...


def cuda_index(device: Device | Literal["auto"]) -> int | None:
    """Return the index of the requested GPU, from 0; None for `auto` and `cpu`.

    Raises UsageError for a name that is not a device.
    """
    if device in ("auto", "cpu"):
        return None
    if (match := _CUDA.fullmatch(device)) is None:
        raise UsageError(f"{device!r} is not a device; choose from auto, cpu, cuda and cuda:N")
    return int(match[1] or 0)


def open_engine(
    bundle: Bundle,
    backend: Backend | Literal["auto"] = "auto",
    device: Device | Literal["auto"] = "auto",
    threads: int | None = None,
    tuned_for: Tuning = "latency",
) -> Engine:
    """Open a bundle on a backend.

    Backend `auto` uses a plan of the bundle that runs on this machine's GPU, unless `cpu` or `threads` is requested or
    there is no such plan; otherwise the first of BACKENDS that is installed, supports the device (the CPU for `auto`)
    and computes the graph correctly on this CPU. Engine.info reports the choice. An explicit backend or device is used
    or refused, never replaced. `threads` limits the CPU threads; None is the quota of the process's cgroup, or without
    one leaves the number to the backend. `tuned_for` sets their use: all for one run (latency), or for as many
    concurrent runs as raise throughput (call run from EngineInfo.num_streams threads).

    Raises UsageError for a name that is not a backend or device, or a backend that does not support the device;
    BackendError where the backend is not installed or cannot load the graph or the plan; IntegrityError where their
    bytes changed since publication; BundleError for a graph that differs from the manifest's table; ParityError where
    a plan with a pending proof fails it.
    """
    _check_request(backend, device, threads)
    gpu = cuda_index(device) or 0
    if backend == "auto" and bundle.manifest.plans and device != "cpu" and threads is None:
        from alexnet_deploy.engines.tensorrt.plan import plan_backend_here

        backend = plan_backend_here(bundle, gpu) or "auto"
    if _runs_plans(backend):
        from alexnet_deploy.engines.tensorrt.plan import open_plan

        return open_plan(bundle, backend, gpu=gpu)
    with ThreadPoolExecutor(max_workers=1) as reader:
        # Neither waits for the other: reading and hashing release the interpreter, importing takes as long.
        reading = reader.submit(source_of, bundle)
        try:
            opener = _opener(backend, device, str(bundle.path), needs_vnni=bundle.manifest.needs_vnni)
        finally:
            # Here, so that an error of the bundle is told in place of one of the backend.
            source = reading.result()
    return _open(source, opener, device, threads, tuned_for)


def source_of(bundle: Bundle) -> GraphSource:
    """Return a bundle's graph; raises IntegrityError if its bytes changed, BundleError if it differs from the table."""
    manifest = bundle.manifest
    data = bundle.read(GRAPH)
    refuse_foreign_graph(data, manifest, str(bundle.path))
    return GraphSource(
        name=str(bundle.path),
        data=data,
        precision=manifest.precision,
        output=manifest.output,
        num_views=len(manifest.views.crops),
        bundle_sha256=bundle.sha256,
        needs_vnni=manifest.needs_vnni,
    )


def open_graph(
    source: GraphSource,
    backend: GraphBackend | Literal["auto"] = "auto",
    device: Device | Literal["auto"] = "auto",
    threads: int | None = None,
) -> Engine:
    """Open a graph without a bundle; otherwise, and in what it raises, like open_engine."""
    _check_request(backend, device, threads)
    opener = _opener(backend, device, source.name, needs_vnni=source.needs_vnni)
    return _open(source, opener, device, threads, "latency")


def _runs_plans(backend: Backend | Literal["auto"]) -> TypeGuard[PlanBackend]:
    return backend in PLAN_BACKENDS


def _check_request(backend: Backend | Literal["auto"], device: Device | Literal["auto"], threads: int | None) -> None:
    if backend != "auto" and backend not in SPECS:
        raise UsageError(f"{backend!r} is not a backend; choose from {', '.join(('auto', *SPECS))}")
    is_cuda = cuda_index(device) is not None
    if threads is not None and threads < 1:
        raise UsageError(f"number of threads must be 1 or more, got {threads}")
    if backend != "auto" and is_cuda and not SPECS[backend].on_cuda:
        others = " and ".join(name for name in BACKENDS if SPECS[name].on_cuda)
        raise UsageError(f"{backend} does not run on {device}; use {others} or a plan")
    if backend != "auto" and device == "cpu" and not SPECS[backend].on_cpu:
        raise UsageError(f"{backend} does not run on the cpu; use {' or '.join(BACKENDS)}")
    if _runs_plans(backend) and threads is not None:
        raise UsageError(f"{backend} runs on a GPU, where CPU threads cannot be limited; leave threads unset")


def _opener(
    backend: Backend | Literal["auto"], device: Device | Literal["auto"], name: str, *, needs_vnni: bool
) -> Opener:
    """Import a backend's library and return the function that opens graphs on it; `auto` is the fastest for the graph.

    Raises BackendError if it is not installed.
    """
    installed = installed_backends()
    if backend == "auto":
        backend = _fastest(installed, name, needs_vnni=needs_vnni, on_cuda=cuda_index(device) is not None)
    if backend not in installed:
        raise BackendError(f"{backend} is not installed; run `{remedy_for(backend)}`")
    refuse_inherited_library(backend)
    # Imported here: commands without an engine stay fast, and one engine does not require the other.
    opener: Opener = importlib.import_module(f"alexnet_deploy.engines.backends.{backend}").open_graph
    return opener


def _open(
    source: GraphSource, opener: Opener, device: Device | Literal["auto"], threads: int | None, tuned_for: Tuning
) -> Engine:
    # Backends know the processors of the machine, not the share of them that a container may use.
    threads = threads or processor_quota()
    return opener(source, device="cpu" if device == "auto" else device, threads=threads, tuned_for=tuned_for)


def _fastest(installed: Sequence[GraphBackend], name: str, *, needs_vnni: bool, on_cuda: bool) -> GraphBackend:
    """Return the first installed backend that supports the device and computes the graph correctly on this CPU."""
    if on_cuda:
        able = [backend for backend in BACKENDS if SPECS[backend].on_cuda]
        # If none is installed, the error names the first and its package.
        return next((backend for backend in able if backend in installed), able[0])
    is_safe = not needs_vnni or has_vnni()
    for backend in installed:
        if is_safe or not SPECS[backend].saturates:
            return backend
    raise BackendError(
        f"{name}: has 8-bit weights, which {installed[0]} computes wrongly on a CPU without VNNI; export the "
        "bundle again, or run `pip install onnxruntime`, which computes them in float32"
    )


def engine_of_graph(
    source: GraphSource,
    runners: Sequence[Runner],
    *,
    backend: GraphBackend,
    version: str,
    device: Device,
    arithmetic: str,
    threads: int | None,
) -> Engine:
    """Return the engine around a backend's runners of this graph, one per stream."""
    info = EngineInfo(
        backend=backend,
        version=version,
        device=device,
        precision=source.precision,
        arithmetic=arithmetic,
        num_threads=threads or 0,
        num_streams=len(runners),
        batch_size=batch_size_for(source.num_views),
        bundle_sha256=source.bundle_sha256,
    )
    return Engine(
        runners,
        info,
        name=source.name,
        output=source.output,
        max_batch=max_batch_for(source.num_views),
    )


def in_one_line(error: Exception) -> str:
    """Return a backend's error message without line breaks."""
    return " ".join(str(error).split())
