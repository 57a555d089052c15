"""The one contract of every engine, kept in one place; and how a bundle is opened on a backend.

images         uint8    (N, 256, 256, 3)   RGB, upright, N of 1 or more
probabilities  float32  (N, K)             each row sums to 1
"""

import importlib.util
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np

from alexnet_deploy.core.bundle import Bundle
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.manifest import Precision
from alexnet_deploy.core.preprocessing import IMAGE_SIZE

Backend: TypeAlias = Literal["openvino", "onnxruntime"]
Device: TypeAlias = Literal["cpu"]

BACKENDS: tuple[Backend, ...] = ("openvino", "onnxruntime")
"""What can run a bundle, the fastest first: `auto` takes the first that is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What is really running."""

    backend: str
    """openvino, onnxruntime, torch."""
    version: str
    """The backend's own."""
    device: str
    """As the backend names it."""
    precision: Precision
    """The graph's."""
    arithmetic: str
    """What its multiplications are done in, which may be wider than the graph's precision."""
    num_threads: int
    """Threads that one run uses; 0 where the backend chooses."""
    bundle_sha256: str | None
    """Digest of the bundle's manifest; None for the trained network, which has no bundle."""


class Runner(Protocol):
    """One backend's part of an engine: no checks, no splitting, and its buffers are its own."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities for a contiguous batch within the limit; the result may be overwritten by the next."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


class Engine:
    """Something that runs: pictures in, probabilities out, of any batch size, until it is closed."""

    def __init__(self, runner: Runner, info: EngineInfo, *, num_classes: int, max_batch: int) -> None:
        self._runner: Runner | None = runner
        self._num_classes = num_classes
        self._max_batch = max_batch
        self.info = info

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 (N, K), for `images`, uint8 (N, 256, 256, 3), RGB, N of 1 or more.

        The result is the caller's. A batch larger than the engine takes at once is split. Raises UsageError for
        images of another shape or type, BackendError after close() or where the backend fails.
        """
        if self._runner is None:
            raise BackendError(f"{self.info.backend}: this engine is closed")
        expected = (IMAGE_SIZE, IMAGE_SIZE, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or not len(images):
            raise UsageError(f"images are {images.dtype} {images.shape}, where uint8 (N, 256, 256, 3) is needed")
        probabilities = np.empty((len(images), self._num_classes), dtype=np.float32)
        for start in range(0, len(images), self._max_batch):
            part = np.ascontiguousarray(images[start : start + self._max_batch])
            # Copied: a backend may write its next result into the same buffer.
            probabilities[start : start + len(part)] = self._runner.run(part)
        return probabilities

    def close(self) -> None:
        """Give back what the engine holds; more than once does nothing."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def installed_backends() -> tuple[Backend, ...]:
    """Return those of BACKENDS whose library is installed, the fastest first; none is imported.

    Raises BackendError where there is none.
    """
    installed = tuple(backend for backend in BACKENDS if importlib.util.find_spec(backend) is not None)
    if not installed:
        raise BackendError("no engine is installed; `pip install 'alexnet-deploy[cpu]'` brings two")
    return installed


def open_engine(
    bundle: Bundle,
    backend: Backend | Literal["auto"] = "auto",
    device: Device | Literal["auto"] = "auto",
    threads: int | None = None,
) -> Engine:
    """Open a bundle on a backend.

    `auto` is the first of BACKENDS that is installed; Engine.info says which it became. Anything else is obeyed or
    refused, never replaced. `threads` limits the processor threads of one run; None leaves them to the backend.

    Raises UsageError for a name that is no backend or device, BackendError where the backend is not installed or
    cannot load the graph, IntegrityError where the graph's bytes are not those that were published.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"{backend!r} is no backend; there are auto, {', '.join(BACKENDS)}")
    if device not in ("auto", "cpu"):
        raise UsageError(f"{device!r} is no device of these backends; there are auto, cpu")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot run anything; 1 or more are needed")
    installed = installed_backends()
    chosen = installed[0] if backend == "auto" else backend
    if chosen not in installed:
        raise BackendError(f"{chosen} is not installed; `pip install {chosen}` brings it")
    # Imported here: a command that needs no engine does not pay for one, and one engine does not need the other.
    if chosen == "openvino":
        from alexnet_deploy.engines.openvino_engine import open_openvino

        return open_openvino(bundle, threads)
    from alexnet_deploy.engines.onnxruntime_engine import open_onnxruntime

    return open_onnxruntime(bundle, threads)


def engine_of_bundle(
    bundle: Bundle, runner: Runner, *, backend: Backend, version: str, arithmetic: str, threads: int | None
) -> Engine:
    """Return the engine around a backend's runner of this bundle's graph, on the CPU."""
    manifest = bundle.manifest
    info = EngineInfo(
        backend=backend,
        version=version,
        device="cpu",
        precision=manifest.precision,
        arithmetic=arithmetic,
        num_threads=threads or 0,
        bundle_sha256=bundle.sha256,
    )
    num_classes, num_views = manifest.architecture.num_classes, len(manifest.views.crops)
    return Engine(runner, info, num_classes=num_classes, max_batch=max_batch_for(num_views))


def in_one_line(error: Exception) -> str:
    """Return a backend's own words without their line breaks."""
    return " ".join(str(error).split())


def max_batch_for(num_views: int) -> int:
    """Return how many pictures one run takes at most.

    160 views keep the activations of a full-size network under a gigabyte (conv1 gives 1.2 MB a view), and no engine
    here gains from more.
    """
    return max(1, 160 // num_views)
