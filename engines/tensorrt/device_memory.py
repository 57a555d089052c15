"""Memory, copies and launches on an NVIDIA GPU: the only module that calls CUDA.

Two libraries implement one protocol: PyCUDA, which is compiled at installation, and CUDA Python, which has prebuilt
wheels. The installed one is used, PyCUDA first. GPUs are numbered from 0 among those in CUDA_VISIBLE_DEVICES.
"""

import ctypes
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np

from alexnet_deploy.core.errors import BackendError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU."""

    name: str
    """Name from the driver."""
    compute_capability: tuple[int, int]
    """Major and minor."""

    @property
    def target(self) -> str:
        """Target of a plan built on this GPU, as `sm_90 NVIDIA H100`."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor} {self.name}"


class DeviceMemory(Protocol):
    """Host and device buffers of one GPU, and one stream of work on it; every method raises BackendError.

    Work is asynchronous and runs in the order of the calls: until synchronize() returns, its inputs must not change
    and its outputs are not available.
    """

    gpu: Gpu
    can_capture: bool
    """Whether capture() works."""

    @property
    def stream(self) -> int:
        """The CUDA stream's handle."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Return an uninitialised host array in pinned memory; it must not be used after close()."""
        ...

    def allocate(self, num_bytes: int) -> int:
        """Return the address of new device memory, aligned to 256 bytes."""
        ...

    def upload(self, address: int, source: np.ndarray) -> None:
        """Copy a contiguous pinned array to the device."""
        ...

    def download(self, target: np.ndarray, address: int) -> None:
        """Fill a contiguous pinned array from the device."""
        ...

    def synchronize(self) -> None:
        """Wait for all submitted work."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that `work` submits, without running it; return a function that submits all of it at once."""
        ...

    def elapsed_ms(self, work: Callable[[], None]) -> float:
        """Submit `work`, wait for it, and return its time on the GPU in milliseconds."""
        ...

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        ...


class _CudaPython:
    """DeviceMemory on CUDA Python (cuda-bindings 12.6 and later)."""

    can_capture = True

    def __init__(self, index: int) -> None:
        self._runtime = _import("cuda.bindings.runtime", "cuda-python")
        self._index = index
        _check_there(index, self._checked("cudaGetDeviceCount"))
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        self.gpu = Gpu(name=name.rstrip("\0"), compute_capability=(int(properties.major), int(properties.minor)))
        self._held = ExitStack()
        # Non-blocking: no synchronisation with work that other code submits to the default stream.
        self._stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        self._held.callback(self._call, "cudaStreamDestroy", self._stream)

    @property
    def stream(self) -> int:
        return int(self._stream)

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._call("cudaHostAlloc", num_bytes, self._runtime.cudaHostAllocDefault)
        self._held.callback(self._call, "cudaFreeHost", address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(int(address))).view(dtype).reshape(shape)

    def allocate(self, num_bytes: int) -> int:
        address = self._call("cudaMalloc", num_bytes)
        self._held.callback(self._call, "cudaFree", address)
        return int(address)

    def upload(self, address: int, source: np.ndarray) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream)

    def download(self, target: np.ndarray, address: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        # Thread-local: CUDA calls of other threads do not invalidate the capture.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        self._held.callback(self._call, "cudaGraphExecDestroy", executable)
        return lambda: self._launch(executable)

    def elapsed_ms(self, work: Callable[[], None]) -> float:
        with ExitStack() as events:
            start, end = self._event(events), self._event(events)
            self._call("cudaEventRecord", start, self._stream)
            work()
            self._call("cudaEventRecord", end, self._stream)
            self._call("cudaEventSynchronize", end)
            return float(self._call("cudaEventElapsedTime", start, end))

    def close(self) -> None:
        self._held.close()

    def _event(self, events: ExitStack) -> object:
        event = self._call("cudaEventCreate")
        events.callback(self._call, "cudaEventDestroy", event)
        return event

    def _launch(self, executable: object) -> None:
        self._call("cudaGraphLaunch", executable, self._stream)

    def _call(self, function: str, *arguments: object) -> Any:
        # The current GPU is a setting of each thread, and other code may have changed it.
        self._checked("cudaSetDevice", self._index)
        return self._checked(function, *arguments)

    def _checked(self, function: str, *arguments: object) -> Any:
        error, *values = getattr(self._runtime, function)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, words = self._runtime.cudaGetErrorString(error)
            raise BackendError(f"cuda: {function}: {words.decode()}")
        return values[0] if values else None


class _PyCuda:
    """DeviceMemory on PyCUDA, in the GPU's primary context, which TensorRT also uses; it cannot capture CUDA graphs."""

    can_capture = False

    def __init__(self, index: int) -> None:
        self._driver = _import("pycuda.driver", "pycuda")
        with self._errors("init"):
            self._driver.init()
            _check_there(index, self._driver.Device.count())
            device = self._driver.Device(index)
            self.gpu = Gpu(name=device.name(), compute_capability=tuple(device.compute_capability()))
            self._context = device.retain_primary_context()
        self._held = ExitStack()
        self._held.callback(self._context.detach)
        with self._current("stream"):
            self._stream = self._driver.Stream()

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        with self._current("pagelocked_empty"):
            values: np.ndarray = self._driver.pagelocked_empty(shape, dtype)
        self._held.callback(cast("Any", values.base).free)
        return values

    def allocate(self, num_bytes: int) -> int:
        with self._current("mem_alloc"):
            allocation = self._driver.mem_alloc(num_bytes)
        self._held.callback(allocation.free)
        return int(allocation)

    def upload(self, address: int, source: np.ndarray) -> None:
        with self._current("memcpy_htod_async"):
            self._driver.memcpy_htod_async(address, source, self._stream)

    def download(self, target: np.ndarray, address: int) -> None:
        with self._current("memcpy_dtoh_async"):
            self._driver.memcpy_dtoh_async(target, address, self._stream)

    def synchronize(self) -> None:
        with self._current("synchronize"):
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        raise BackendError("pycuda does not support CUDA graphs; replace it with `pip install cuda-python`")

    def elapsed_ms(self, work: Callable[[], None]) -> float:
        with self._current("event"):
            start = self._driver.Event().record(self._stream)
            work()
            end = self._driver.Event().record(self._stream)
            end.synchronize()
            return float(start.time_till(end))

    def close(self) -> None:
        with self._errors("close"):
            # PyCUDA's stream is destroyed with its last reference, which must go before the context.
            self._stream = None
            self._held.close()

    @contextmanager
    def _current(self, function: str) -> Iterator[None]:
        # A context is current in one thread at a time, and an engine may be run from any thread.
        with self._errors(function):
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()

    @contextmanager
    def _errors(self, function: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise BackendError(f"pycuda: {function}: {' '.join(str(error).split())}") from error


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(f"{package} is installed but cannot be loaded: {' '.join(str(error).split())}") from error


def _check_there(index: int, count: int) -> None:
    if index >= count:
        there = "no GPU was found" if not count else "only cuda:0" if count == 1 else f"only cuda:0 to cuda:{count - 1}"
        raise BackendError(f"cuda:{index} is not available: {there}")


def open_device(index: int = 0) -> DeviceMemory:
    """Open a GPU with the first installed library.

    Raises BackendError where neither is installed or the GPU is not available.
    """
    if importlib.util.find_spec("pycuda") is not None:
        open_memory: Callable[[int], DeviceMemory] = _PyCuda
    elif importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None:
        open_memory = _CudaPython
    else:
        raise BackendError("no CUDA library is installed; run `pip install cuda-python`")
    try:
        return open_memory(index)
    except BackendError as error:
        raise BackendError(f"no NVIDIA GPU can be used here: {error}") from error


def find_gpu(index: int = 0) -> Gpu | None:
    """Return the GPU that open_device() would open, or None if it would raise."""
    try:
        with closing(open_device(index)) as memory:
            return memory.gpu
    except BackendError:
        return None
