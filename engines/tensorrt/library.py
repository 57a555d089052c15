"""NVIDIA's three libraries - tensorrt 10, tensorrt 11, tensorrt-rtx - behind one interface: differences and logging.

                          tensorrt 10.3 and later   tensorrt 11          tensorrt-rtx 1.3 and later
    STRONGLY_TYPED        required                  ignored              required
    builds without a GPU  no                        no                   yes, for every GPU of Ampere and later
    timing cache          yes                       yes                  no effect, and needs a GPU
    VERSION_COMPATIBLE    yes                       yes                  no: a plan runs only on its own release
    AMPERE_PLUS           yes                       yes                  no flag: all its plans are compatible
    get_engine_validity   no                        no                   yes
    CUDA graphs           captured by the caller    captured by caller   captured by the library

Sources: the names in the wheels tensorrt-cu12-bindings 10.3.0, tensorrt-cu13-bindings 10.16.1 and 11.4.0, and
tensorrt-rtx-cu13-bindings 1.7.1; docs.nvidia.com/deeplearning/tensorrt and /tensorrt-rtx, the pages
"Engine Compatibility", "Timing Cache Migration", "CPU-Only AOT" and "Working with RTX CUDA Graphs".
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType

from alexnet_deploy.core.bundle.vocabulary import PlanBackend
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.registry import SPECS, installed_module, remedy_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """The differences between the libraries."""

    least_version: tuple[int, int]
    """The oldest supported release."""
    builds_without_gpu: bool
    """Whether it builds plans without a GPU, for any supported GPU."""
    has_timing_cache: bool
    """Whether timings of one build make the next one faster."""
    can_be_version_compatible: bool
    """Whether a plan can be built to run on later releases."""
    captures_graphs: bool
    """Whether it captures CUDA graphs itself, for any batch size; otherwise the caller has to."""


TRAITS: MappingProxyType[PlanBackend, Traits] = MappingProxyType(
    {
        "tensorrt": Traits(
            least_version=(10, 3),
            builds_without_gpu=False,
            has_timing_cache=True,
            can_be_version_compatible=True,
            captures_graphs=False,
        ),
        "tensorrt-rtx": Traits(
            least_version=(1, 3),
            builds_without_gpu=True,
            has_timing_cache=False,
            can_be_version_compatible=False,
            captures_graphs=True,
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLines:
    """Log lines collected from a library."""

    debug: Callable[[str], None]
    """Called with every line, from any thread of the library; it must not raise."""
    errors: list[str] = field(default_factory=list)
    """Errors so far without duplicates, one line each."""

    def add(self, severity: str, text: str) -> None:
        """Add one message."""
        line = " ".join(text.split())
        self.debug(f"{severity.lower()}: {line}")
        if severity in ("ERROR", "INTERNAL_ERROR") and line not in self.errors:
            self.errors.append(line)

    def why(self) -> str:
        """Return the logged errors, for the end of an error message."""
        return "; ".join(self.errors) or "the library logged no error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """An imported NVIDIA library."""

    backend: PlanBackend
    trt: ModuleType
    """The module; the three libraries have the same interface."""
    version: str
    """Version of the library."""
    traits: Traits
    logger: object
    """The logger of its builders and runtimes."""
    listeners: list[LogLines]
    """The current receivers of log lines."""

    @contextmanager
    def listening(self, debug: Callable[[str], None] | None = None) -> Iterator[LogLines]:
        """Collect the library's log lines inside the block."""
        lines = LogLines(debug=debug or _drop)
        self.listeners.append(lines)
        try:
            yield lines
        finally:
            # By identity: two receivers with the same lines compare equal.
            self.listeners[:] = [other for other in self.listeners if other is not lines]


_loaded: dict[PlanBackend, Library] = {}


def is_installed(backend: PlanBackend) -> bool:
    """Return whether the library is installed; it is not imported."""
    return installed_module(SPECS[backend].modules) is not None


def load_library(backend: PlanBackend) -> Library:
    """Import a library, once; raises BackendError where it is not installed, too old, or cannot be loaded."""
    if backend not in _loaded:
        _loaded[backend] = _load(backend)
    return _loaded[backend]


def _load(backend: PlanBackend) -> Library:
    traits = TRAITS[backend]
    remedy = remedy_for(backend)
    name = installed_module(SPECS[backend].modules)
    if name is None:
        raise BackendError(f"{backend} is not installed; run `{remedy}`")
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BackendError(f"{backend} is installed but cannot be loaded: {' '.join(str(error).split())}") from error
    version = str(trt.__version__)
    if version_numbers(version) < traits.least_version:
        least = ".".join(map(str, traits.least_version))
        raise BackendError(f"{backend} {version} is too old, {least} or later is needed; run `{remedy}`")
    listeners: list[LogLines] = []
    return Library(
        backend=backend,
        trt=trt,
        version=version,
        traits=traits,
        logger=_make_logger(trt, listeners),
        listeners=listeners,
    )


def _make_logger(trt: ModuleType, listeners: list[LogLines]) -> object:
    # One logger for the whole process: a library uses the first logger it gets for everything after it
    # ("The logger passed into createInferBuilder differs from one already registered").
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, text: str) -> None:
            for lines in tuple(listeners):
                lines.add(str(getattr(severity, "name", severity)), text)

    return Logger()


def version_numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers, for comparison: 10.3.0.post1 gives (10, 3, 0)."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _drop(line: str) -> None:
    """Ignore a log line."""
