"""Running a bundle's plan on an NVIDIA GPU with tensorrt or tensorrt-rtx.

A run is one upload, the network and one download on one stream, through pinned buffers that are allocated once for the
largest batch. With tensorrt a repeated batch size runs as one CUDA graph; tensorrt-rtx captures such graphs itself.
"""

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from alexnet_deploy.core.bundle.contract import IMAGES, Output
from alexnet_deploy.core.bundle.plans import AHEAD_OF_TIME, PlanRecord
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.bundle.vocabulary import PlanBackend, Precision
from alexnet_deploy.core.errors import BackendError, IntegrityError, ParityError
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.engines.backends.runner import StageTimes
from alexnet_deploy.engines.engine import Device, Engine, EngineInfo, cuda_index
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.registry import SPECS, Backend, installed_backends, installed_module
from alexnet_deploy.engines.tensorrt.device_memory import DeviceMemory, Gpu, find_gpu, open_device
from alexnet_deploy.engines.tensorrt.library import Library, LogLines, is_installed, load_library, version_numbers

# A plan is built with TF32 off; half and int8 come from the graph's own types.
_ARITHMETIC: dict[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8 products",
}

_AMPERE = (8, 0)
"""Minimum compute capability of GPUs for plans that are not built for one GPU."""


def open_plan(bundle: Bundle, backend: PlanBackend, file: str | None = None, gpu: int = 0) -> Engine:
    """Open a bundle's plan for a GPU of this machine, numbered from 0, or the plan with the name `file`.

    The checks are, in this order: the plan's bytes, its graph, the release that built it, its GPU, the library's own
    validation and, if its proof is pending, its output for the golden images.

    A version-compatible plan contains code that runs when it is opened; digests do not prove who made it.

    Raises IntegrityError, BackendError or ParityError, in this order.
    """
    record = _choose(bundle, backend, file, gpu)
    data = bundle.read(record.file)
    name = str(bundle.path / record.file)
    remedy = f"rebuild it with `alexnet-deploy build {shlex.quote(str(bundle.path))} --plan {backend}`"
    if (entry := bundle.manifest.files.get(GRAPH)) is None:
        raise IntegrityError(f"{bundle.path}: its manifest does not list {GRAPH}")
    if record.graph_sha256 != entry.sha256:
        raise BackendError(
            f"{name}: was built from another graph, {record.graph_sha256[:12]}..., not {GRAPH}, "
            f"{entry.sha256[:12]}...; {remedy}"
        )
    library = load_library(backend)
    if (problem := _version_problem(record, library)) is not None:
        raise BackendError(f"{name}: {problem}; {remedy}")
    with ExitStack() as stack:
        try:
            memory = open_device(gpu)
        except BackendError as error:
            raise BackendError(f"{name}: {backend} needs an NVIDIA GPU to run plans: {error}") from error
        stack.callback(memory.close)
        if (problem := _target_problem(record, memory.gpu)) is not None:
            raise BackendError(f"{name}: {problem}; {remedy}")
        lines = stack.enter_context(library.listening())
        try:
            loaded = _deserialise(library, data, record, lines)
            runner = _Runner(library, loaded, memory, record, bundle.manifest.output, lines)
        except BackendError as error:
            raise BackendError(f"{name}: {error}; {remedy}") from error
        runner.owned = stack.pop_all()
    engine = Engine(
        [runner],
        _info(bundle, record, library, memory.gpu),
        name=name,
        output=bundle.manifest.output,
        max_batch=record.profile.max_batch,
    )
    if record.proof == "pending":
        _prove(engine, bundle, name)
    return engine


def plan_backend_here(bundle: Bundle, gpu: int = 0) -> PlanBackend | None:
    """Return the library that can run one of the bundle's plans on a GPU of this machine, or None."""
    installed = [record for record in bundle.manifest.plans if is_installed(record.backend)]
    found = find_gpu(gpu) if installed else None
    if found is None:
        return None
    return next((record.backend for record in installed if _runs_here(record, found)), None)


def backends_here(bundle: Bundle, device: Device | Literal["auto"] = "auto") -> tuple[Backend, ...]:
    """Return all installed backends that run the bundle on a device, plans last; `auto` is the CPU and the first GPU.

    Raises UsageError for a name that is not a device, BackendError where no backend runs it.
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
            f"{bundle.path}: no installed backend runs it on {device}; on a machine with an NVIDIA GPU, replace "
            f"onnxruntime with `pip install onnxruntime-gpu`, or build a plan with "
            f"`alexnet-deploy build {shlex.quote(str(bundle.path))}`"
        )
    return found


def _choose(bundle: Bundle, backend: PlanBackend, file: str | None, gpu: int) -> PlanRecord:
    """Return the record of the plan that fits this machine; if none fits, the first."""
    records = [record for record in bundle.manifest.plans if record.backend == backend and file in (None, record.file)]
    if not records:
        what = f"no plan for {backend}" if file is None else f"no {file} for {backend}"
        raise BackendError(
            f"{bundle.path}: contains {what}; build one with "
            f"`alexnet-deploy build {shlex.quote(str(bundle.path))} --plan {backend}`"
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
    return f"was built by {record.backend} {record.version}, but {library.version} is installed"


def _target_problem(record: PlanRecord, gpu: Gpu) -> str | None:
    if record.target == AHEAD_OF_TIME or record.options.is_hardware_compatible:
        fits = gpu.compute_capability >= _AMPERE
        return None if fits else f"is for GPUs of Ampere (sm_80) and later, but this GPU is {gpu.target}"
    return None if record.target == gpu.target else f"was built for {record.target}, but this GPU is {gpu.target}"


def _deserialise(library: Library, data: bytes, record: PlanRecord, lines: LogLines) -> Any:
    trt = library.trt
    said = f"{library.backend} {library.version}"
    try:
        runtime = trt.Runtime(library.logger)
    except TypeError as error:
        # "pybind11::init(): factory function returned nullptr": the bindings could not create a runtime.
        raise BackendError(f"{said} cannot create a runtime: {lines.why()}") from error
    if record.options.is_version_compatible:
        runtime.engine_host_code_allowed = True
    if hasattr(runtime, "get_engine_validity"):
        validity, diagnostics = runtime.get_engine_validity(data)
        if validity == trt.EngineValidity.INVALID:
            names = trt.EngineInvalidityDiagnostics.__members__.items()
            found = [name for name, bit in names if int(diagnostics) & int(bit)]
            raise BackendError(f"{said} reports it as invalid: {', '.join(found) or lines.why()}")
    loaded = runtime.deserialize_cuda_engine(data)
    if loaded is None:
        raise BackendError(f"{said} cannot open it: {lines.why()}")
    if loaded.name != record.graph_sha256:
        raise BackendError(
            f"its bytes name the graph {loaded.name[:12]}..., but its record names the graph "
            f"{record.graph_sha256[:12]}..."
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
                f"{name}: on {engine.info.device} it disagrees with the trained network on the golden images: "
                f"{'; '.join(failures)}"
            )
        stack.pop_all()


class _Runner:
    """A plan with its buffers; a batch below the profile's minimum is padded with black images."""

    def __init__(
        self,
        library: Library,
        loaded: Any,
        memory: DeviceMemory,
        record: PlanRecord,
        output: Output,
        lines: LogLines,
    ) -> None:
        self.owned = ExitStack()
        """Released last: the memory, and the listener on the library's log."""
        self._library, self._loaded, self._memory, self._lines = library, loaded, memory, lines
        self._min_batch = record.profile.min_batch
        largest = record.profile.max_batch
        self._images = memory.pinned((largest, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        self._outputs = memory.pinned((largest, output.size), np.float32)
        self._output = output.name
        self._addresses = {
            IMAGES: memory.allocate(self._images.nbytes),
            output.name: memory.allocate(self._outputs.nbytes),
        }
        self._makes_graphs = memory.can_capture and not library.traits.captures_graphs
        # All contexts share one scratch space: only one of them runs at a time.
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
        return self._outputs[:num_images]

    def time_stages(self, images: np.ndarray) -> StageTimes:
        self.run(images)
        batch, context, memory = max(len(images), self._min_batch), self._contexts[0], self._memory
        self._set_batch(context, batch)
        return StageTimes(
            upload_ms=memory.elapsed_ms(lambda: memory.upload(self._addresses[IMAGES], self._images[:batch])),
            compute_ms=memory.elapsed_ms(lambda: self._execute(context, batch)),
            download_ms=memory.elapsed_ms(
                lambda: memory.download(self._outputs[:batch], self._addresses[self._output])
            ),
        )

    def close(self) -> None:
        self._graphs.clear()
        self._contexts.clear()
        self._loaded = None
        self.owned.close()

    def _capture(self, batch: int) -> None:
        # The batch is already computed. A CUDA graph only saves launches and does not change results: if it cannot be
        # captured, the engine continues without.
        try:
            self._graphs[batch] = self._graph_of(batch)
        except BackendError:
            self._makes_graphs = False

    def _graph_of(self, batch: int) -> Callable[[], None]:
        # A separate context and one run before the capture, as in "TensorRT Best Practices, CUDA Graphs": a graph keeps
        # its context's shapes and addresses, and the first run after a change of shape does deferred work.
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
            raise BackendError(f"{self._library.backend} cannot create an execution context: {self._lines.why()}")
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
        self._memory.download(self._outputs[:batch], self._addresses[self._output])

    def _execute(self, context: Any, batch: int) -> None:
        self._insist(context.execute_async_v3(self._memory.stream), f"run a batch of {batch}")

    def _insist(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"{self._library.backend} cannot {what}: {self._lines.why()}")
