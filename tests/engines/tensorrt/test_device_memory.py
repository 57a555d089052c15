import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from commands import HANGS_AFTER_S
from fake_nvidia import FakeCuda, install, needs_gpu

from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.tensorrt.device_memory import DeviceMemory, Gpu, find_gpu, open_device


class FakePyCuda(ModuleType):
    """The used part of pycuda.driver on the fake CUDA: calls work only in a pushed context."""

    Error = RuntimeError

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__("pycuda.driver")
        self.cuda, self.pushed, self.num_detached = cuda, 0, 0
        self.Context = SimpleNamespace(pop=self._pop)
        self.opened: list[int] = []

        def device(number: int) -> object:
            self.opened.append(number)
            context = SimpleNamespace(push=self._push, detach=self._detach)
            return SimpleNamespace(
                name=lambda: "NVIDIA L4", compute_capability=lambda: (8, 9), retain_primary_context=lambda: context
            )

        device.count = lambda: cuda.num_gpus  # type: ignore[attr-defined]
        self.Device = device

    def _pop(self) -> None:
        self.pushed -= 1

    def _push(self) -> None:
        self.pushed += 1

    def _detach(self) -> None:
        self.num_detached += 1

    def _call(self, function: str, *arguments: object) -> object:
        if not self.pushed:
            raise self.Error(f"{function} failed: invalid device context")
        error, *values = getattr(self.cuda, function)(*arguments)
        if error:
            raise self.Error(f"{function} failed")
        return values[0] if values else None

    def init(self) -> None:
        if not self.cuda.has_driver:
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def Stream(self) -> object:  # noqa: N802
        handle = self._call("cudaStreamCreateWithFlags", 0)
        return SimpleNamespace(handle=handle, synchronize=lambda: self._call("cudaStreamSynchronize", handle))

    def Event(self) -> object:  # noqa: N802
        event = SimpleNamespace(synchronize=lambda: self._call("cudaStreamSynchronize", 0), time_till=lambda end: 1.5)
        event.record = lambda stream: event
        return event

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        self._call("cudaHostAlloc", 1, 0)

        class Base(np.ndarray):
            def free(self) -> None:
                pass

        return np.zeros(shape, dtype).view(Base)[...]

    def mem_alloc(self, num_bytes: int) -> object:
        address = self._call("cudaMalloc", num_bytes)

        class Allocation(int):
            def free(allocation) -> None:  # noqa: N805
                self.cuda.cudaFree(allocation)

        return Allocation(address)  # type: ignore[call-overload]

    def memcpy_htod_async(self, to: int, source: np.ndarray, stream: SimpleNamespace) -> None:
        self._call("cudaMemcpyAsync", to, source.ctypes.data, source.nbytes, 1, stream.handle)

    def memcpy_dtoh_async(self, to: np.ndarray, source: int, stream: SimpleNamespace) -> None:
        self._call("cudaMemcpyAsync", to.ctypes.data, source, to.nbytes, 2, stream.handle)


def install_pycuda(monkeypatch: pytest.MonkeyPatch, driver: FakePyCuda) -> None:
    package = ModuleType("pycuda")
    package.__spec__ = ModuleSpec("pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture(params=["cuda-python", "pycuda"])
def memory(request: pytest.FixtureRequest, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceMemory]:
    install(monkeypatch, cuda)
    if request.param == "pycuda":
        install_pycuda(monkeypatch, FakePyCuda(cuda))
    memory = open_device()
    yield memory
    memory.close()


def test_what_goes_up_comes_down_once_it_was_waited_for(memory: DeviceMemory, cuda: FakeCuda) -> None:
    up, down = memory.pinned((3, 4), np.float32), memory.pinned((3, 4), np.float32)
    up[...] = np.arange(12).reshape(3, 4)
    down[...] = -1
    address = memory.allocate(up.nbytes)
    memory.upload(address, up)
    memory.download(down, address)
    assert (down == -1).all()
    memory.synchronize()
    np.testing.assert_array_equal(down, np.arange(12).reshape(3, 4))
    assert cuda.done == ["upload", "download"]


def test_part_of_a_buffer_is_copied_alone(memory: DeviceMemory) -> None:
    host = memory.pinned((4,), np.uint8)
    host[...] = [1, 2, 3, 4]
    address = memory.allocate(4)
    memory.upload(address, host[:2])
    memory.synchronize()
    host[...] = 0
    memory.download(host[:2], address)
    memory.synchronize()
    assert host.tolist() == [1, 2, 0, 0]


def test_copy_beyond_a_buffer_is_one_sentence(memory: DeviceMemory) -> None:
    host = memory.pinned((5,), np.uint8)
    with pytest.raises(BackendError, match=r"^(cuda|pycuda): [^\n]*$"):
        memory.upload(memory.allocate(4), host)


def test_time_is_taken_on_the_gpu(memory: DeviceMemory) -> None:
    done = []
    assert memory.elapsed_ms(lambda: done.append(1)) == 1.5
    assert done == [1]


def test_everything_is_freed_once(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda)
    memory = open_device()
    memory.pinned((3,), np.uint8)
    memory.allocate(7)
    memory.capture(lambda: None)
    memory.elapsed_ms(lambda: None)
    assert sorted(cuda.live.values()) == ["device", "executable", "pinned", "stream"]
    memory.close()
    memory.close()
    assert not cuda.live


def test_captured_work_is_done_when_it_is_launched(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda)
    memory = open_device()
    host, address = memory.pinned((2,), np.uint8), memory.allocate(2)
    launch = memory.capture(lambda: memory.upload(address, host))
    memory.synchronize()
    assert cuda.done == []
    launch()
    launch()
    memory.synchronize()
    assert cuda.done == ["graph", "graph"]


def test_capture_that_fails_inside_leaves_a_stream_that_works(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda)
    memory = open_device()
    with pytest.raises(BackendError, match="cudaStreamSynchronize"):
        memory.capture(memory.synchronize)
    memory.synchronize()
    memory.close()
    assert "stream" not in cuda.live.values()


def test_pycuda_comes_first_and_says_that_it_captures_nothing(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda)
    assert open_device().gpu == Gpu(name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0))
    driver = FakePyCuda(cuda)
    install_pycuda(monkeypatch, driver)
    memory = open_device()
    assert memory.gpu.target == "sm_89 NVIDIA L4"
    assert not memory.can_capture
    with pytest.raises(BackendError, match="pip install cuda-python"):
        memory.capture(lambda: None)
    memory.close()
    memory.close()
    assert (driver.pushed, driver.num_detached) == (0, 1)


def test_target_is_as_a_plan_s_record_has_it(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda)
    gpu = find_gpu()
    assert gpu is not None
    assert gpu.target == "sm_90 NVIDIA H100 80GB HBM3"
    assert not cuda.live


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_no_driver_is_one_sentence(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(has_driver=False)
    install(monkeypatch, cuda)
    if library == "pycuda":
        install_pycuda(monkeypatch, FakePyCuda(cuda))
    with pytest.raises(BackendError, match=r"no NVIDIA GPU can be used here: (cuda|pycuda): [^\n]*$"):
        open_device()
    assert find_gpu() is None


def test_neither_library_is_one_sentence_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="no CUDA library is installed; run `pip install cuda-python`"):
        open_device()


def test_fake_has_no_name_that_cuda_python_has_not() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for name in (name for name in vars(FakeCuda) if name.startswith("cuda")):
        assert hasattr(runtime, name), name
        for member in getattr(getattr(FakeCuda, name), "__members__", {}):
            assert hasattr(getattr(runtime, name), member), f"{name}.{member}"


@pytest.mark.gpu
@needs_gpu
def test_real_gpu_copies_captures_and_times() -> None:
    memory = open_device()
    host, back, address = memory.pinned((1000,), np.float32), memory.pinned((1000,), np.float32), memory.allocate(4000)
    host[...] = np.arange(1000)

    def there_and_back() -> None:
        memory.upload(address, host)
        memory.download(back, address)

    assert memory.elapsed_ms(there_and_back) > 0
    np.testing.assert_array_equal(back, host)
    if memory.can_capture:
        launch = memory.capture(there_and_back)
        host[...] += 1
        launch()
        memory.synchronize()
        np.testing.assert_array_equal(back, host)
    memory.close()


def test_a_gpu_is_chosen_by_its_number_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(num_gpus=3)
    install(monkeypatch, cuda)
    with closing(open_device(2)) as memory:
        pinned = memory.pinned((4,), np.uint8)
        address = memory.allocate(4)
        # A new thread starts with GPU 0 as its current GPU, and other code may change it.
        cuda.current.gpu = 1
        with ThreadPoolExecutor(1) as thread:
            thread.submit(memory.upload, address, pinned).result(HANGS_AFTER_S)
        memory.download(pinned, address)
        memory.synchronize()
    assert cuda.used == {2}


@pytest.mark.parametrize(
    ("num_gpus", "there"), [(0, "no GPU was found"), (1, "only cuda:0"), (4, "only cuda:0 to cuda:3")]
)
def test_a_gpu_that_is_not_there_is_refused(num_gpus: int, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(num_gpus=num_gpus))
    with pytest.raises(
        BackendError, match=f"no NVIDIA GPU can be used here: cuda:{num_gpus} is not available: {there}$"
    ):
        open_device(num_gpus)
    assert find_gpu(num_gpus) is None


def test_pycuda_opens_the_gpu_of_that_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(num_gpus=2)
    driver = FakePyCuda(cuda)
    install_pycuda(monkeypatch, driver)
    open_device(1).close()
    assert driver.opened == [1]
    with pytest.raises(BackendError, match="cuda:2 is not available: only cuda:0 to cuda:1"):
        open_device(2)
