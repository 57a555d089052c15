"""A graph becomes a plan, by whichever of NVIDIA's three libraries; see tensorrt_library for where they differ.

No precision is asked for: the graph is typed, and what it says is what is built. Refitting is off.
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

from alexnet_deploy.core.bundle.manifest import IMAGES, PROBABILITIES
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

_MAX_TIMINGS_BYTES = 1 << 28
"""How soon progress is shown and Ctrl-C is heard."""

_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
"""NVIDIA's names of number types, where they are not ours in capitals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """How far a build is."""

    phase: str
    """What is being done, in the library's words."""
    fraction: float
    """Of the whole, 0..1; it never falls. Phases do not take equal times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildObserver:
    """Who is told what a build does; nobody unless given."""

    say: Say = say_nothing
    """Takes lines for a person."""
    on_progress: Callable[[BuildProgress], None] | None = None
    """Called in the thread that asked for the build; what it raises ends the build soon."""
    debug: Say = say_nothing
    """Takes every line that the library logs, from another thread."""


NOBODY = BuildObserver()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPlan:
    """A plan and what there is to say of it."""

    data: bytes
    """The plan, as the library made it."""
    record: PlanRecord
    """Its entry in a manifest, `proof` still pending."""


def build_plan(
    graph: bytes,
    backend: PlanBackend,
    profile: Profile,
    options: PlanOptions,
    *,
    timing_cache: Path | None = None,
    observer: BuildObserver = NOBODY,
) -> BuiltPlan:
    """Build a plan of a graph's ONNX file, for this machine's GPU or, by tensorrt-rtx, for any of Ampere and later.

    `timing_cache` is a file that makes the next build for this GPU faster; it is made where it is not there, and lies
    outside of every bundle. Ctrl-C ends the build soon.

    Raises BackendError where the library is not installed, needs a GPU that is not there, or refuses the graph: with
    every error of its parser, by node; UsageError for an option that the library does not have.
    """
    library = load_library(backend)
    _check_options(library, options, timing_cache)
    target = AHEAD_OF_TIME if library.traits.builds_without_gpu else _target_here(library)
    request = _Request(library=library, graph=graph, profile=profile, options=options, timing_cache=timing_cache)
    begun = time.perf_counter()
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
            build_seconds=round(time.perf_counter() - begun, 3),
            layers=layers,
            proof="pending",
        ),
    )


def refuse_build(backend: PlanBackend, options: PlanOptions, timing_cache: Path | None) -> None:
    """Raise at once what build_plan would raise before it looks at a graph."""
    library = load_library(backend)
    _check_options(library, options, timing_cache)
    if not library.traits.builds_without_gpu:
        _target_here(library)


def default_timing_cache(backend: PlanBackend) -> Path | None:
    """Return this user's file of timings for this library and GPU, None where the library keeps none.

    Raises BackendError where the library or the GPU is not there.
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
    """Refuse what the library does not have; of a GPU of Ampere and later, see Traits.builds_without_gpu."""
    backend, traits = library.backend, library.traits
    if options.is_version_compatible and not traits.can_be_version_compatible:
        raise UsageError(f"{backend} has no version-compatible plans: a plan runs on the release that built it only")
    if timing_cache is not None and not traits.has_timing_cache:
        raise UsageError(f"{backend} keeps no timing cache; build without one")


def _target_here(library: Library) -> str:
    try:
        with closing(open_device()) as memory:
            return memory.gpu.target
    except BackendError as error:
        raise BackendError(f"{library.backend} builds plans on the GPU that they are for: {error}") from error


def _in_a_thread(
    request: _Request, lines: LogLines, on_progress: Callable[[BuildProgress], None] | None
) -> tuple[bytes, dict[str, int]]:
    """Build in another thread, so that Ctrl-C and on_progress's errors arrive here.

    In a callback that the library calls they would be printed and forgotten: it may not let Python's errors through.
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
    """What the library says of its progress, from its threads, for ours to ask."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._steps: dict[str, tuple[int, int]] = {}
        self._latest: BuildProgress | None = None

    def start(self, phase: str, num_steps: int) -> None:
        """Begin a phase inside those that are under way."""
        with self._lock:
            self._steps[phase] = (0, max(1, num_steps))
            self._see(phase)

    def step(self, phase: str, step: int) -> bool:
        """Take note of a step, counted from 0, that is done; return whether to go on."""
        with self._lock:
            if phase in self._steps:
                self._steps[phase] = (step + 1, self._steps[phase][1])
                self._see(phase)
        return not self.cancelled.is_set()

    def finish(self, phase: str) -> None:
        """End a phase, which may be before its last step."""
        with self._lock:
            self._steps.pop(phase, None)

    def now(self) -> BuildProgress | None:
        """Return how far the build is; None before it says anything."""
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
        # "pybind11::init(): factory function returned nullptr": how the bindings say that there is no builder.
        raise BackendError(f"{library.backend} {library.version} gives no builder: {lines.why()}") from error
    # 10 needs to be told, 11 takes it and does nothing else anyway.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # It owns weights that the network points to, and so is kept until the plan is there.
    parser = trt.OnnxParser(network, library.logger)
    _parse(library, parser, network, request.graph)
    # The plan's own bytes say what it is of, whatever the record beside them says.
    network.name = sha256(request.graph)
    monitor = _make_monitor(trt, phases)
    config = _configure(request, builder, monitor, lines)
    with _timing_cache(config, request.timing_cache, lines):
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(f"{library.backend} {library.version} built no plan: {lines.why()}")
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
    if (inputs, outputs) != ([IMAGES], [PROBABILITIES]):
        raise BackendError(
            f"the graph has the inputs {inputs} and outputs {outputs}, where {IMAGES} and {PROBABILITIES} are needed"
        )


def _configure(request: _Request, builder: Any, monitor: object, lines: LogLines) -> Any:
    trt, options, batches = request.library.trt, request.options, request.profile
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    # So that an inspector can say what became of each layer.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, and then float32 is multiplied with eleven bits: float32 is to mean float32.
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
        raise BackendError(f"{request.library.backend} takes no batches of {sizes}: {lines.why()}")
    return config


@contextmanager
def _timing_cache(config: Any, path: Path | None, lines: LogLines) -> Iterator[None]:
    """Use a file of timings in the block, and write it anew where the block ends well.

    Timings of another GPU or release are left aside. A plan is not lost for want of a place to keep timings.
    """
    if path is None:
        yield
        return
    cache = config.create_timing_cache(_stored_timings(path, lines))
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        lines.debug(f"{path}: timings of another GPU or release, left aside")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bytes(cache.serialize()))
    except OSError as error:
        lines.debug(f"{path}: timings could not be kept: {error.strerror or error}")


def _stored_timings(path: Path, lines: LogLines) -> bytes:
    try:
        return read_file(path, _MAX_TIMINGS_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        lines.debug(f"{path}: timings could not be read: {error.strerror or error}")
        return b""


def _count_layers(network: Any) -> dict[str, int]:
    # Not the engine inspector: it needs the plan opened, which needs a GPU; and it tells of fused kernels, in which
    # tensorrt-rtx no longer calls an LRN one.
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "CONSTANT":
            continue
        number = layer.get_output(0).dtype.name
        kind = f"{layer.type.name} {_TYPES.get(number, number.lower())}"
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))
