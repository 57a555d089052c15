"""NVIDIA's three libraries - tensorrt 10, tensorrt 11, tensorrt-rtx - as one: where they differ, and their log.

                          tensorrt 10.3 and later   tensorrt 11          tensorrt-rtx 1.3 and later
    STRONGLY_TYPED        asked for                 taken and ignored    asked for
    builds without a GPU  no                        no                   yes, for every GPU of Ampere and later
    timing cache          yes                       yes                  no effect, and asks for a GPU
    VERSION_COMPATIBLE    yes                       yes                  no: a plan runs on its own release only
    AMPERE_PLUS           yes                       yes                  unsupported; its plans are so anyway
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
    """Where one library differs from the others."""

    least_version: tuple[int, int]
    """The oldest release whose interface is the one used here."""
    builds_without_gpu: bool
    """Its plans are for no GPU in particular, and need none to be built."""
    has_timing_cache: bool
    """Timings of one build make the next one faster."""
    can_be_version_compatible: bool
    """A plan can be built to run on later releases."""
    captures_graphs: bool
    """It makes CUDA graphs of its own, for any batch size; the others leave that to the caller."""


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
    """What a library said while it was listened to."""

    debug: Callable[[str], None]
    """Takes every line as it comes; it is called from whatever thread the library is in, and must not raise."""
    errors: list[str] = field(default_factory=list)
    """Errors so far, each once, in one line each."""

    def add(self, severity: str, text: str) -> None:
        """Take one message."""
        line = " ".join(text.split())
        self.debug(f"{severity.lower()}: {line}")
        if severity in ("ERROR", "INTERNAL_ERROR") and line not in self.errors:
            self.errors.append(line)

    def why(self) -> str:
        """Return the errors as the end of a sentence."""
        return "; ".join(self.errors) or "it does not say why"


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """An NVIDIA library that has been imported."""

    backend: PlanBackend
    trt: ModuleType
    """The module; the three have one interface."""
    version: str
    """Its own."""
    traits: Traits
    logger: object
    """What its builders and runtimes are made with."""
    listeners: list[LogLines]
    """Who hears the log now."""

    @contextmanager
    def listening(self, debug: Callable[[str], None] | None = None) -> Iterator[LogLines]:
        """Collect what the library says inside the block."""
        lines = LogLines(debug=debug or _drop)
        self.listeners.append(lines)
        try:
            yield lines
        finally:
            # By identity: two that heard the same are equal.
            self.listeners[:] = [other for other in self.listeners if other is not lines]


_loaded: dict[PlanBackend, Library] = {}


def is_installed(backend: PlanBackend) -> bool:
    """Return whether the library is there; it is not imported."""
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
        raise BackendError(f"{backend} is not installed; `{remedy}` brings it")
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BackendError(f"{backend} is installed and cannot be loaded: {' '.join(str(error).split())}") from error
    version = str(trt.__version__)
    if version_numbers(version) < traits.least_version:
        least = ".".join(map(str, traits.least_version))
        raise BackendError(f"{backend} {version} is installed, and {least} or later is needed; `{remedy}`")
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
    # One for as long as the process lives: a library takes the first logger it is given for all that comes after
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
    """Take a line and leave it."""
