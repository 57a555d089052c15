"""What a backend implements: the part of an engine without checks and splitting; it owns its buffers."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


class Runner(Protocol):
    """One backend's part of an engine: no checks, no splitting; it owns its buffers."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the output for a contiguous batch within the limit; the next run may overwrite the result."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Time of each stage of one run, measured by the device."""

    upload_ms: float
    """Images to the device."""
    compute_ms: float
    """The graph."""
    download_ms: float
    """The output from the device."""


@runtime_checkable
class StagedRunner(Runner, Protocol):
    """A runner on a device with its own memory."""

    def time_stages(self, images: np.ndarray) -> StageTimes:
        """Run a contiguous batch within the limit and time each stage separately."""
        ...


@runtime_checkable
class LayeredRunner(Runner, Protocol):
    """A runner that returns more than its one output."""

    def run_layers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output of the network by name for a contiguous batch; the next run may overwrite them."""
        ...
