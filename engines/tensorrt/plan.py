"""Plans of a bundle on an NVIDIA GPU, by tensorrt or tensorrt-rtx.

A run is one upload, the network, one download, on one stream, through pinned buffers that are made once for the
largest batch. tensorrt runs a batch size that comes again as one CUDA graph; tensorrt-rtx makes such graphs itself.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from alexnet_deploy.core.bundle.manifest import IMAGES, PROBABILITIES
from alexnet_deploy.core.bundle.plans import AHEAD_OF_TIME, PlanRecord
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.bundle.vocabulary import PlanBackend, Precision
from alexnet_deploy.core.errors import BackendError, IntegrityError, ParityError
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.engines.engine import Device, Engine, EngineInfo, StageTimes, cuda_index
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.registry import SPECS, Backend, installed_backends, installed_module
from alexnet_deploy.engines.tensorrt.device_memory import DeviceMemory, Gpu, find_gpu, open_device
from alexnet_deploy.engines.tensorrt.library import Library, LogLines, is_installed, load_library, version_numbers

# A plan is built with TF32 off; half and int8 are what the graph's own types say.
_ARITHMETIC: dict[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8 products",
}

_AMPERE = (8, 0)
"""The least compute capability of the GPUs that a plan for no GPU in particular runs on."""


def open_plan(bundle: Bundle, backend: PlanBackend, file: str | None = None, gpu: int = 0) -> Engine:
    """Open a bundle's plan for a GPU of this machine, numbered from 0, or the one that is called `file`.

    What can be wrong with a plan is looked for in this order, each before the next: its bytes, the graph it is of, the
    release that built it, the GPU it is for, what the library itself finds, and, where it has not been proved yet,
    what it says of the golden images.

    A version-compatible plan holds code, which opening it runs; digests do not say who made it.

    Raises IntegrityError, BackendError or ParityError, in this order.
    """
    record = _choose(bundle, backend, file, gpu)
    data = bundle.read(record.file)
    name = str(bundle.path / record.file)
    remedy = f"`alexnet-deploy build {bundle.path} --plan {backend}` builds it anew"
    if (entry := bundle.manifest.files.get(GRAPH)) is None:
        raise IntegrityError(f"{bundle.path}: its manifest names no {GRAPH}")
    if record.graph_sha256 != entry.sha256:
        raise BackendError(
            f"{name}: is a plan of another graph, {record.graph_sha256[:12]}..., and not of {GRAPH}, "
            f"{entry.sha256[:12]}...; {remedy}"
        )
    library = load_library(backend)
    if (problem := _version_problem(record, library)) is not None:
        raise BackendError(f"{name}: {problem}; {remedy}")
    with ExitStack() as stack:
        try:
            memory = open_device(gpu)
        except BackendError as error:
            raise BackendError(f"{name}: {backend} runs plans on an NVIDIA GPU: {error}") from error
        stack.callback(memory.close)
        if (problem := _target_problem(record, memory.gpu)) is not None:
            raise BackendError(f"{name}: {problem}; {remedy}")
        lines = stack.enter_context(library.listening())
        try:
            loaded = _deserialise(library, data, record, lines)
            runner = _Runner(library, loaded, memory, record, bundle.manifest.architecture.num_classes, lines)
        except BackendError as error:
            raise BackendError(f"{name}: {error}; {remedy}") from error
        runner.owned = stack.pop_all()
    engine = Engine(
        [runner],
        _info(bundle, record, library, memory.gpu),
        name=name,
        num_classes=bundle.manifest.architecture.num_classes,
        max_batch=record.profile.max_batch,
    )
    if record.proof == "pending":
        _prove(engine, bundle, name)
    return engine


def plan_backend_here(bundle: Bundle, gpu: int = 0) -> PlanBackend | None:
    """Return what would run one of the bundle's plans on a GPU of this machine; None where there is nothing."""
    installed = [record for record in bundle.manifest.plans if is_installed(record.backend)]
    found = find_gpu(gpu) if installed else None
    if found is None:
        return None
    return next((record.backend for record in installed if _runs_here(record, found)), None)


def backends_here(bundle: Bundle, device: Device | Literal["auto"] = "auto") -> tuple[Backend, ...]:
    """Return everything installed that runs the bundle on a device, plans last; `auto` is the CPU and the first GPU.

    Raises UsageError for what is not a device, BackendError where nothing does.
    """
    index = cuda_index(device)
    found: tuple[Backend, ...] = ()
    if index is None:
        found = installed_backends()
    elif installed_module(SPECS["onnxruntime"].modules) is not None:
        from alexnet_deploy.engines.backends.onnxruntime import runs_on_cuda

        found = ("onnxruntime",) if runs_on_cuda() else ()
    if bundle.manifest.plans and device != "cpu" and (plan := plan_backend_here(bundle, index or 0)) is not None:
        found = (*found, plan)
    if not found:
        raise BackendError(
            f"nothing here runs {bundle.path} on {device}; `pip install onnxruntime-gpu` in place of onnxruntime, or a "
            f"plan (`alexnet-deploy build {bundle.path}`), does on a machine with an NVIDIA GPU"
        )
    return found


def _choose(bundle: Bundle, backend: PlanBackend, file: str | None, gpu: int) -> PlanRecord:
    """Return the record of the plan that fits this machine; of several that do not, the first."""
    records = [record for record in bundle.manifest.plans if record.backend == backend and file in (None, record.file)]
    if not records:
        what = f"no plan for {backend}" if file is None else f"no {file} for {backend}"
        raise BackendError(
            f"{bundle.path}: holds {what}; `alexnet-deploy build {bundle.path} --plan {backend}` makes one"
        )
    found = find_gpu(gpu) if len(records) > 1 and is_installed(backend) else None
    if found is None:
        return records[0]
    return next((record for record in records if _runs_here(record, found)), records[0])


def _runs_here(record: PlanRecord, gpu: Gpu) -> bool:
    try:
        library = load_library(record.backend)
    except BackendError:
        return False
    return _version_problem(record, library) is None and _target_problem(record, gpu) is None


def _version_problem(record: PlanRecord, library: Library) -> str | None:
    if record.version == library.version:
        return None
    if record.options.is_version_compatible and version_numbers(library.version) >= version_numbers(record.version):
        return None
    return f"was built by {record.backend} {record.version}, and {library.version} is installed"


def _target_problem(record: PlanRecord, gpu: Gpu) -> str | None:
    if record.target == AHEAD_OF_TIME or record.options.is_hardware_compatible:
        fits = gpu.compute_capability >= _AMPERE
        return None if fits else f"is for GPUs of Ampere (sm_80) and later, and this one is {gpu.target}"
    return None if record.target == gpu.target else f"was built for {record.target}, and this GPU is {gpu.target}"


def _deserialise(library: Library, data: bytes, record: PlanRecord, lines: LogLines) -> Any:
    trt = library.trt
    said = f"{library.backend} {library.version}"
    try:
        runtime = trt.Runtime(library.logger)
    except TypeError as error:
        # "pybind11::init(): factory function returned nullptr": how the bindings say that there is no runtime.
        raise BackendError(f"{said} gives no runtime: {lines.why()}") from error
    if record.options.is_version_compatible:
        runtime.engine_host_code_allowed = True
    if hasattr(runtime, "get_engine_validity"):
        validity, diagnostics = runtime.get_engine_validity(data)
        if validity == trt.EngineValidity.INVALID:
            names = trt.EngineInvalidityDiagnostics.__members__.items()
            found = [name for name, bit in names if int(diagnostics) & int(bit)]
            raise BackendError(f"{said} finds it invalid here: {', '.join(found) or lines.why()}")
    loaded = runtime.deserialize_cuda_engine(data)
    if loaded is None:
        raise BackendError(f"{said} cannot open it: {lines.why()}")
    if loaded.name != record.graph_sha256:
        raise BackendError(
            f"its own bytes say that it is of the graph {loaded.name[:12]}..., and its record that "
            f"it is of {record.graph_sha256[:12]}..."
        )
    return loaded


def _info(bundle: Bundle, record: PlanRecord, library: Library, gpu: Gpu) -> EngineInfo:
    precision = bundle.manifest.precision
    return EngineInfo(
        backend=record.backend,
        version=library.version,
        device=gpu.target,
        precision=precision,
        arithmetic=_ARITHMETIC[precision],
        num_threads=0,
        num_streams=1,
        batch_size=record.profile.opt_batch,
        bundle_sha256=bundle.sha256,
    )


def _prove(engine: Engine, bundle: Bundle, name: str) -> None:
    with ExitStack() as stack:
        stack.callback(engine.close)
        failures = [failure for row in prove(engine, bundle) for failure in row.failures]
        if failures:
            raise ParityError(
                f"{name}: on {engine.info.device} it does not say what the trained network said of the golden "
                f"images: {'; '.join(failures)}"
            )
        stack.pop_all()


class _Runner:
    """A plan with its buffers; a batch under the profile's least is filled up with black images."""

    def __init__(
        self,
        library: Library,
        loaded: Any,
        memory: DeviceMemory,
        record: PlanRecord,
        num_classes: int,
        lines: LogLines,
    ) -> None:
        self.owned = ExitStack()
        """What is let go of last: the memory, and the ear on the library's log."""
        self._library, self._loaded, self._memory, self._lines = library, loaded, memory, lines
        self._min_batch = record.profile.min_batch
        largest = record.profile.max_batch
        self._images = memory.pinned((largest, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        self._probabilities = memory.pinned((largest, num_classes), np.float32)
        self._addresses = {
            IMAGES: memory.allocate(self._images.nbytes),
            PROBABILITIES: memory.allocate(self._probabilities.nbytes),
        }
        self._makes_graphs = memory.can_capture and not library.traits.captures_graphs
        # Its scratch space is shared by all of its contexts, of which one runs at a time.
        self._scratch_bytes = 0 if library.traits.captures_graphs else max(1, int(loaded.device_memory_size_v2))
        self._scratch = memory.allocate(self._scratch_bytes) if self._scratch_bytes else 0
        self._contexts = [self._new_context()]
        self._graphs: dict[int, Callable[[], None]] = {}
        self._met: set[int] = set()

    def run(self, images: np.ndarray) -> np.ndarray:
        num_images = len(images)
        batch = max(num_images, self._min_batch)
        self._images[:num_images] = images
        self._images[num_images:batch] = 0
        if (launch := self._graphs.get(batch)) is not None:
            launch()
        else:
            self._set_batch(self._contexts[0], batch)
            self._ask(self._contexts[0], batch)
        self._memory.synchronize()
        if self._makes_graphs and batch in self._met and batch not in self._graphs:
            self._capture(batch)
        self._met.add(batch)
        return self._probabilities[:num_images]

    def time_stages(self, images: np.ndarray) -> StageTimes:
        self.run(images)
        batch, context, memory = max(len(images), self._min_batch), self._contexts[0], self._memory
        self._set_batch(context, batch)
        return StageTimes(
            upload_ms=memory.elapsed_ms(lambda: memory.upload(self._addresses[IMAGES], self._images[:batch])),
            compute_ms=memory.elapsed_ms(lambda: self._execute(context, batch)),
            download_ms=memory.elapsed_ms(
                lambda: memory.download(self._probabilities[:batch], self._addresses[PROBABILITIES])
            ),
        )

    def close(self) -> None:
        self._graphs.clear()
        self._contexts.clear()
        self._loaded = None
        self.owned.close()

    def _capture(self, batch: int) -> None:
        # This batch has been answered, and a graph saves launches and changes no number: where there can be none,
        # the engine goes on without.
        try:
            self._graphs[batch] = self._graph_of(batch)
        except BackendError:
            self._makes_graphs = False

    def _graph_of(self, batch: int) -> Callable[[], None]:
        # A context of its own, and one run before: NVIDIA's way, "TensorRT Best Practices, CUDA Graphs". A graph
        # remembers its context's shapes and addresses, and the first run after a change of shape does deferred work.
        context = self._new_context()
        self._contexts.append(context)
        self._set_batch(context, batch)
        self._ask(context, batch)
        self._memory.synchronize()
        return self._memory.capture(lambda: self._ask(context, batch))

    def _new_context(self) -> Any:
        trt = self._library.trt
        if self._library.traits.captures_graphs:
            settings = self._loaded.create_runtime_config()
            settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._loaded.create_execution_context(settings)
        else:
            context = self._loaded.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(f"{self._library.backend} gives no execution context: {self._lines.why()}")
        if self._scratch_bytes:
            context.set_device_memory(self._scratch, self._scratch_bytes)
        for tensor, address in self._addresses.items():
            self._insist(context.set_tensor_address(tensor, address), f"place {tensor}")
        return context

    def _set_batch(self, context: Any, batch: int) -> None:
        shape = (batch, IMAGE_SIZE, IMAGE_SIZE, 3)
        self._insist(context.set_input_shape(IMAGES, shape), f"take a batch of {batch}")

    def _ask(self, context: Any, batch: int) -> None:
        self._memory.upload(self._addresses[IMAGES], self._images[:batch])
        self._execute(context, batch)
        self._memory.download(self._probabilities[:batch], self._addresses[PROBABILITIES])

    def _execute(self, context: Any, batch: int) -> None:
        self._insist(context.execute_async_v3(self._memory.stream), f"run a batch of {batch}")

    def _insist(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"{self._library.backend} does not {what}: {self._lines.why()}")
