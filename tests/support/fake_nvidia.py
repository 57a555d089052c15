"""A fake NVIDIA GPU: CUDA memory and streams, and the TensorRT runtime, as far as the engine uses them.

Device memory is host memory. As on a GPU, work in a stream runs only when it is waited for: reading a result too early
gives the old contents. A plan is an ONNX graph behind a header, and ONNX Runtime runs it.
"""

# ruff: noqa: N802, N815 - the names are NVIDIA's.

import ctypes
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from alexnet_deploy.engines.tensorrt.library import Library

needs_gpu = pytest.mark.skipif(
    not Path("/proc/driver/nvidia/version").exists(), reason="there is no NVIDIA driver on this machine"
)
"""For tests of the real library."""

Work = tuple[str, Callable[[], None]]


class FakeCuda:
    """cuda.bindings.runtime: every call returns an error and its results."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaError_t = IntEnum(
        "cudaError_t", {"cudaSuccess": 0, "cudaErrorInvalidValue": 1, "cudaErrorInsufficientDriver": 35}
    )
    cudaMemcpyKind = IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaStreamCaptureMode = IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})

    def __init__(self, has_driver: bool = True, num_gpus: int = 1) -> None:
        self.has_driver, self.num_gpus = has_driver, num_gpus
        self.current = threading.local()
        """Current GPU of each thread; 0 at first."""
        self.used: set[int] = set()
        """GPUs that were used."""
        self.done: list[str] = []
        """Operations of the GPU, in order."""
        self.live: dict[int, str] = {}
        """Objects that are not freed yet, by handle or address."""
        self._buffers: dict[int, ctypes.Array[ctypes.c_uint8]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._waiting: list[Work] = []
        self._capturing: list[Work] | None = None
        self._handles = iter(range(1, 10_000))

    def _make(self, kind: str, handle: int | None = None) -> tuple[int, int]:
        self.used.add(getattr(self.current, "gpu", 0))
        handle = next(self._handles) if handle is None else handle
        self.live[handle] = kind
        return 0, handle

    def _free(self, kind: str, handle: int) -> tuple[int]:
        assert self.live.pop(int(handle), None) == kind, f"{kind} {handle} is not there to be freed"
        return (0,)

    def _buffer(self, kind: str, num_bytes: int) -> tuple[int, int]:
        buffer = (ctypes.c_uint8 * num_bytes)()
        address = ctypes.addressof(buffer)
        # Not zeros, so that unwritten memory is visible.
        ctypes.memset(address, 0xAA, num_bytes)
        self._buffers[address] = buffer
        return self._make(kind, address)

    def enqueue(self, name: str, work: Callable[[], None]) -> None:
        self.used.add(getattr(self.current, "gpu", 0))
        (self._waiting if self._capturing is None else self._capturing).append((name, work))

    def cudaSetDevice(self, device: int) -> tuple[int]:
        self.current.gpu = device
        return (0 if device < self.num_gpus else 1,)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return (0, self.num_gpus) if self.has_driver else (35, 0)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        words = {35: b"CUDA driver version is insufficient for CUDA runtime version"}
        return 0, words.get(error, b"invalid argument")

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, object]:
        return 0, SimpleNamespace(name=b"NVIDIA H100 80GB HBM3\0\0", major=9, minor=0)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return self._make("stream")

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return self._free("stream", stream)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._buffer("pinned", size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        return self._free("pinned", address)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._buffer("device", size)

    def cudaFree(self, address: int) -> tuple[int]:
        return self._free("device", address)

    def cudaMemcpyAsync(self, to: int, source: int, count: int, kind: int, stream: int) -> tuple[int]:
        upload = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        device = to if upload else source
        if self.live.get(device) != "device" or count > len(self._buffers[device]) or stream not in self.live:
            return (1,)
        self.enqueue("upload" if upload else "download", lambda: void(ctypes.memmove(to, source, count)))
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        if self._capturing is not None:
            return (1,)
        for name, work in self._waiting:
            work()
            self.done.append(name)
        self._waiting.clear()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self._capturing = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        _, handle = self._make("graph")
        self._graphs[handle], self._capturing = self._capturing or [], None
        return 0, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        _, handle = self._make("executable")
        self._graphs[handle] = self._graphs[graph]
        return 0, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        return self._free("graph", graph)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[int]:
        return self._free("executable", executable)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[int]:
        assert self.live[executable] == "executable"
        self.enqueue("graph", lambda: [work() for _, work in self._graphs[executable]].clear())
        return (0,)

    def cudaEventCreate(self) -> tuple[int, int]:
        return self._make("event")

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        self.enqueue("event", lambda: None)
        return (0,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        return self.cudaStreamSynchronize(0)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        return 0, 1.5

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        return self._free("event", event)


def void(_: object) -> None:
    pass


def install(monkeypatch: pytest.MonkeyPatch, runtime: FakeCuda) -> None:
    """For one test, make `import cuda.bindings.runtime` give the fake, and PyCUDA look not installed."""
    monkeypatch.setitem(sys.modules, "pycuda", None)
    for name in ("cuda", "cuda.bindings"):
        package = ModuleType(name)
        package.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)


class FakeContext:
    def __init__(self, engine: "FakeEngine") -> None:
        self.engine, self.shape, self.scratch = engine, None, 0
        self.addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in ("images", "probabilities")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "images" and self.engine.min_batch <= shape[0] <= self.engine.max_batch

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda, shape = self.engine.cuda, self.shape
        assert cuda.live[stream_handle] == "stream"
        assert self.engine.makes_graphs or cuda.live[self.scratch] == "device"

        def work() -> None:
            assert self.shape == shape, "a graph's context has been given another shape"
            images = (ctypes.c_uint8 * int(np.prod(shape))).from_address(self.addresses["images"])
            pixels = np.frombuffer(images, dtype=np.uint8).reshape(shape)
            (result,) = self.engine.session.run(None, {"images": pixels})
            ctypes.memmove(self.addresses["probabilities"], result.ctypes.data, result.nbytes)

        cuda.enqueue("execute", work)
        return True


class FakeEngine:
    device_memory_size_v2 = 4096

    def __init__(self, trt: "FakeTensorRt", name: str, min_batch: int, max_batch: int, graph: bytes) -> None:
        self.cuda, self.makes_graphs = trt.cuda, trt.makes_graphs
        self.name, self.min_batch, self.max_batch = name, min_batch, max_batch
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.contexts: list[FakeContext] = []
        self.settings: list[object] = []

    def create_runtime_config(self) -> SimpleNamespace:
        assert self.makes_graphs
        return SimpleNamespace(cuda_graph_strategy="DISABLED")

    def create_execution_context(self, how: object) -> FakeContext:
        self.settings.append(getattr(how, "cuda_graph_strategy", how))
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


def fake_plan(graph: bytes, *, name: str, min_batch: int, max_batch: int) -> bytes:
    """Return a plan that the fake runtime can open."""
    return f"{name} {min_batch} {max_batch} {len(graph)}\n".encode() + graph


class FakeTensorRt:
    """tensorrt, or tensorrt_rtx if the runtime captures CUDA graphs itself."""

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
    EngineValidity = SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2)
    EngineInvalidityDiagnostics = SimpleNamespace(
        __members__=MappingProxyType({"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "MALFORMED_ENGINE": 32})
    )

    def __init__(self, cuda: FakeCuda, makes_graphs: bool) -> None:
        self.cuda, self.makes_graphs = cuda, makes_graphs
        self.opened: list[FakeEngine] = []
        self.allowed_code: list[bool] = []
        self.validity = (0, 0)
        self.library: Library | None = None

    def Runtime(self, logger: object) -> SimpleNamespace:
        runtime = SimpleNamespace(engine_host_code_allowed=False)
        if self.makes_graphs:
            runtime.get_engine_validity = lambda data: self.validity

        def deserialize(data: bytes) -> FakeEngine | None:
            header, _, graph = data.partition(b"\n")
            name, min_batch, max_batch, num_bytes = header.decode().split()
            self.allowed_code.append(runtime.engine_host_code_allowed)
            if len(graph) != int(num_bytes):
                assert self.library is not None
                for lines in self.library.listeners:
                    lines.add("ERROR", "Serialization assertion failed:\n  size mismatch")
                return None
            self.opened.append(FakeEngine(self, name, int(min_batch), int(max_batch), graph))
            return self.opened[-1]

        runtime.deserialize_cuda_engine = deserialize
        return runtime
