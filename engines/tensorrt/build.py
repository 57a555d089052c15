"""Building a plan from a graph with any of NVIDIA's three libraries; see library.py for their differences.

No precision is requested from the builder: the graph is strongly typed. Refitting is off.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.core.bundle.contract import FEATURES, IMAGES, PROBABILITIES
from alexnet_deploy.core.bundle.plans import AHEAD_OF_TIME, PlanOptions, PlanRecord, Profile, plan_file
from alexnet_deploy.core.bundle.vocabulary import PlanBackend
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.fs.files import sha256, write_atomically
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.engines.tensorrt.device_memory import open_device
from alexnet_deploy.engines.tensorrt.library import Library, LogLines, load_library

if TYPE_CHECKING:
    from types import ModuleType

_POLL_SECONDS = 0.02
"""Interval between checks for progress and Ctrl-C."""

_MAX_TIMINGS_BYTES = 1 << 28

_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
"""NVIDIA's names of number types that are not our name in capitals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """Progress of a build."""

    phase: str
    """The current phase, as the library names it."""
    fraction: float
    """Share of the build, 0..1; it never decreases. Phases take different times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildObserver:
    """Callbacks of a build; the defaults do nothing."""

    say: Say = say_nothing
    """Called with progress lines for the user."""
    on_progress: Callable[[BuildProgress], None] | None = None
    """Called in the thread that requested the build; an exception from it cancels the build."""
    debug: Say = say_nothing
    """Called with every log line of the library, from another thread."""


NOBODY = BuildObserver()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPlan:
    """A plan with its record."""

    data: bytes
    """The serialised plan, unchanged."""
    record: PlanRecord
    """Its entry for the manifest, with `proof` pending."""


def build_plan(
    graph: bytes,
    backend: PlanBackend,
    profile: Profile,
    options: PlanOptions,
    *,
    timing_cache: Path | None = None,
    observer: BuildObserver = NOBODY,
) -> BuiltPlan:
    """Build a plan of a graph's ONNX file, for this machine's GPU or, with tensorrt-rtx, for any Ampere or later GPU.

    `timing_cache` is a file that makes the next build for this GPU faster; it is created if missing, and is not part of
    any bundle. Ctrl-C cancels the build.

    Raises BackendError where the library is not installed, no GPU is found although the library needs one, or the
    library rejects the graph (with every parser error, by node); UsageError for an option that the library lacks.
    """
    library = load_library(backend)
    _check_options(library, options, timing_cache)
    target = AHEAD_OF_TIME if library.traits.builds_without_gpu else _target_here(library)
    request = _Request(library=library, graph=graph, profile=profile, options=options, timing_cache=timing_cache)
    started = time.perf_counter()
    with library.listening(observer.debug) as lines:
        data, layers = _in_a_thread(request, lines, observer.on_progress)
    return BuiltPlan(
        data=data,
        record=PlanRecord(
            file=plan_file(backend, library.version, target),
            backend=backend,
            version=library.version,
            target=target,
            graph_sha256=sha256(graph),
            profile=profile,
            options=options,
            build_seconds=round(time.perf_counter() - started, 3),
            layers=layers,
            proof="pending",
        ),
    )


def refuse_build(backend: PlanBackend, options: PlanOptions, timing_cache: Path | None) -> None:
    """Raise at once what build_plan would raise before it reads the graph."""
    library = load_library(backend)
    _check_options(library, options, timing_cache)
    if not library.traits.builds_without_gpu:
        _target_here(library)


def default_timing_cache(backend: PlanBackend) -> Path | None:
    """Return the user's default timing cache for this library and GPU; None if the library has no timing cache.

    Raises BackendError where the library or the GPU is missing.
    """
    library = load_library(backend)
    if not library.traits.has_timing_cache:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = Path(plan_file(backend, library.version, _target_here(library))).stem
    return home / "alexnet-deploy" / f"{name}.timing"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    library: Library
    graph: bytes
    profile: Profile
    options: PlanOptions
    timing_cache: Path | None


def _check_options(library: Library, options: PlanOptions, timing_cache: Path | None) -> None:
    """Raise UsageError for options that the library lacks; hardware compatibility: see Traits.builds_without_gpu."""
    backend, traits = library.backend, library.traits
    if options.is_version_compatible and not traits.can_be_version_compatible:
        raise UsageError(
            f"{backend} cannot build version-compatible plans: a plan runs only on the release that built it"
        )
    if timing_cache is not None and not traits.has_timing_cache:
        raise UsageError(f"{backend} has no timing cache; build without one")


def _target_here(library: Library) -> str:
    try:
        with closing(open_device()) as memory:
            return memory.gpu.target
    except BackendError as error:
        raise BackendError(f"{library.backend} builds a plan on the GPU that will run it: {error}") from error


def _in_a_thread(
    request: _Request, lines: LogLines, on_progress: Callable[[BuildProgress], None] | None
) -> tuple[bytes, dict[str, int]]:
    """Build in another thread, so that Ctrl-C and exceptions of on_progress are raised here.

    Raised inside a callback of the library, they would be printed and lost: it does not propagate Python exceptions.
    """
    phases = _Phases()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="build") as pool:
        building: Future[tuple[bytes, dict[str, int]]] = pool.submit(_build, request, phases, lines)
        try:
            while not wait([building], timeout=_POLL_SECONDS).done:
                if on_progress is not None and (now := phases.now()) is not None:
                    on_progress(now)
        finally:
            phases.cancelled.set()
    return building.result()


class _Phases:
    """Progress that the library reports from its threads, for our thread to poll."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._steps: dict[str, tuple[int, int]] = {}
        self._latest: BuildProgress | None = None

    def start(self, phase: str, num_steps: int) -> None:
        """Start a phase inside the current ones."""
        with self._lock:
            self._steps[phase] = (0, max(1, num_steps))
            self._see(phase)

    def step(self, phase: str, step: int) -> bool:
        """Record a finished step, counted from 0; return whether to continue."""
        with self._lock:
            if phase in self._steps:
                self._steps[phase] = (step + 1, self._steps[phase][1])
                self._see(phase)
        return not self.cancelled.is_set()

    def finish(self, phase: str) -> None:
        """End a phase, possibly before its last step."""
        with self._lock:
            self._steps.pop(phase, None)

    def now(self) -> BuildProgress | None:
        """Return the latest progress; None before the first report."""
        with self._lock:
            return self._latest

    def _see(self, phase: str) -> None:
        fraction, share = 0.0, 1.0
        for done, total in self._steps.values():
            fraction += share * done / total
            share /= total
        before = 0.0 if self._latest is None else self._latest.fraction
        self._latest = BuildProgress(phase=phase, fraction=max(before, min(fraction, 1.0)))


def _make_monitor(trt: "ModuleType", phases: _Phases) -> object:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def _build(request: _Request, phases: _Phases, lines: LogLines) -> tuple[bytes, dict[str, int]]:
    library, trt = request.library, request.library.trt
    try:
        builder = trt.Builder(library.logger)
    except TypeError as error:
        # "pybind11::init(): factory function returned nullptr": the bindings could not create a builder.
        raise BackendError(f"{library.backend} {library.version} cannot create a builder: {lines.why()}") from error
    # TensorRT 10 needs the flag; 11 accepts it and is always strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # The parser owns weights that the network points to, so it must live until the plan is built.
    parser = trt.OnnxParser(network, library.logger)
    _parse(library, parser, network, request.graph)
    # So the plan's bytes identify its graph, independent of the record in the manifest.
    network.name = sha256(request.graph)
    monitor = _make_monitor(trt, phases)
    config = _configure(request, builder, monitor, lines)
    with _timing_cache(config, request.timing_cache, lines):
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(f"{library.backend} {library.version} could not build the plan: {lines.why()}")
    layers = _count_layers(network)
    del parser
    return bytes(plan), layers


def _parse(library: Library, parser: Any, network: Any, graph: bytes) -> None:
    if not parser.parse(graph):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        words = [
            f"{error.node_name() or 'the file'}{f' ({error.node_operator()})' if error.node_operator() else ''}: "
            + " ".join(error.desc().split())
            for error in errors
        ]
        raise BackendError(f"{library.backend} {library.version} cannot read the graph: {'; '.join(words)}")
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    if inputs != [IMAGES] or outputs not in ([PROBABILITIES], [FEATURES]):
        raise BackendError(
            f"the graph has the inputs {inputs} and outputs {outputs}, expected {IMAGES} and {PROBABILITIES} or "
            f"{FEATURES}"
        )


def _configure(request: _Request, builder: Any, monitor: object, lines: LogLines) -> Any:
    trt, options, batches = request.library.trt, request.options, request.profile
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    # Lets an engine inspector show each layer.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 is on by default and multiplies float32 with eleven bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.is_version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.is_hardware_compatible and not request.library.traits.builds_without_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    profile = builder.create_optimization_profile()
    sizes = (batches.min_batch, batches.opt_batch, batches.max_batch)
    profile.set_shape(IMAGES, *((size, IMAGE_SIZE, IMAGE_SIZE, 3) for size in sizes))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"{request.library.backend} rejects the batch sizes {sizes}: {lines.why()}")
    return config


@contextmanager
def _timing_cache(config: Any, path: Path | None, lines: LogLines) -> Iterator[None]:
    """Use a timing cache file in the block, and write it back when the block succeeds.

    Timings of another GPU or release are ignored. A cache that cannot be written does not fail the build.
    """
    if path is None:
        yield
        return
    cache = config.create_timing_cache(_stored_timings(path, lines))
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        lines.debug(f"{path}: ignored timings of another GPU or release")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bytes(cache.serialize()))
    except OSError as error:
        lines.debug(f"{path}: timings could not be written: {error.strerror or error}")


def _stored_timings(path: Path, lines: LogLines) -> bytes:
    try:
        return read_file(path, _MAX_TIMINGS_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        lines.debug(f"{path}: timings could not be read: {error.strerror or error}")
        return b""


def _count_layers(network: Any) -> dict[str, int]:
    # Not from the engine inspector: that needs an open plan and so a GPU, and it lists fused kernels, among which
    # tensorrt-rtx shows no LRN.
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "CONSTANT":
            continue
        number = layer.get_output(0).dtype.name
        kind = f"{layer.type.name} {_TYPES.get(number, number.lower())}"
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))
