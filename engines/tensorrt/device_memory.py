"""Memory, copies and launches on an NVIDIA GPU: the only place that talks to CUDA.

Two libraries can do it, behind one protocol: PyCUDA, which is compiled where it is installed, and CUDA Python, which
comes ready. Whichever is installed is used, PyCUDA first. GPUs are numbered from 0 among those that
CUDA_VISIBLE_DEVICES leaves.
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
    """As its driver calls it."""
    compute_capability: tuple[int, int]
    """Major and minor."""

    @property
    def target(self) -> str:
        """What a plan that was built on it is for, as `sm_90 NVIDIA H100`."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor} {self.name}"


class DeviceMemory(Protocol):
    """Buffers on both sides of one GPU, and one stream of work on it; everything raises BackendError.

    Work is done in the order it was asked for, after the call that asked for it has returned: what it reads must
    stay as it is, and what it writes is not there, until synchronize() has returned.
    """

    gpu: Gpu
    can_capture: bool
    """Whether capture() works."""

    @property
    def stream(self) -> int:
        """The CUDA stream's handle."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Return a host array that the GPU can reach, undefined values; it is not to be touched after close()."""
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
        """Wait for all that was asked for."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that `work` asks for, without doing it; return what asks for all of it at once."""
        ...

    def elapsed_ms(self, work: Callable[[], None]) -> float:
        """Ask for `work`, wait for it, and return the milliseconds that it took on the GPU."""
        ...

    def close(self) -> None:
        """Free everything; more than once does nothing."""
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
        # Non-blocking: work that something else gives the default stream neither waits for this one nor stops it.
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
        # Thread-local: what other threads do with CUDA meanwhile does not spoil it.
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
        # The current GPU is each thread's own, and other code may have changed it.
        self._checked("cudaSetDevice", self._index)
        return self._checked(function, *arguments)

    def _checked(self, function: str, *arguments: object) -> Any:
        error, *values = getattr(self._runtime, function)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, words = self._runtime.cudaGetErrorString(error)
            raise BackendError(f"cuda: {function}: {words.decode()}")
        return values[0] if values else None


class _PyCuda:
    """DeviceMemory on PyCUDA, in the GPU's primary context, which TensorRT uses too; it cannot capture graphs."""

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
        raise BackendError("pycuda: it has no CUDA graphs; `pip install cuda-python` and remove pycuda to have them")

    def elapsed_ms(self, work: Callable[[], None]) -> float:
        with self._current("event"):
            start = self._driver.Event().record(self._stream)
            work()
            end = self._driver.Event().record(self._stream)
            end.synchronize()
            return float(start.time_till(end))

    def close(self) -> None:
        with self._errors("close"):
            # PyCUDA's stream is destroyed with its last reference, which must be before the context goes.
            self._stream = None
            self._held.close()

    @contextmanager
    def _current(self, function: str) -> Iterator[None]:
        # A context is current in one thread at a time, and an engine may be run from any.
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
        raise BackendError(f"{package} is installed and cannot be loaded: {' '.join(str(error).split())}") from error


def _check_there(index: int, count: int) -> None:
    if index >= count:
        there = (
            "there is none" if not count else "there is cuda:0 only" if count == 1 else f"cuda:{count - 1} is the last"
        )
        raise BackendError(f"cuda:{index} is not there: {there}")


def open_device(index: int = 0) -> DeviceMemory:
    """Open a GPU with the first library that is installed.

    Raises BackendError where neither is, or there is no such GPU that it can use.
    """
    if importlib.util.find_spec("pycuda") is not None:
        open_memory: Callable[[int], DeviceMemory] = _PyCuda
    elif importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None:
        open_memory = _CudaPython
    else:
        raise BackendError("nothing that reaches an NVIDIA GPU is installed; `pip install cuda-python` brings it")
    try:
        return open_memory(index)
    except BackendError as error:
        raise BackendError(f"no NVIDIA GPU can be used here: {error}") from error


def find_gpu(index: int = 0) -> Gpu | None:
    """Return the GPU that open_device() would open, None where it would raise."""
    try:
        with closing(open_device(index)) as memory:
            return memory.gpu
    except BackendError:
        return None
