"""The proof of an engine layer by layer: which layer of a running engine is at fault.

Two errors of each layer: against the trained network, which accumulates from layer to layer; and its own, against what
ONNX's definition makes of the engine's own input to the layer, which does not. So the layer at fault is the first
whose own error exceeds the noise of its arithmetic. Each gate is written so that NaN fails it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from msgspec import Struct

from alexnet_deploy.core.bundle.layout import Numbers
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.golden.record import FeatureTolerance
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.engines.proof.tolerances import engine_tolerance


class LayerError(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far values are from the expected ones, relative to them."""

    rms: float
    """Root mean square of the differences, divided by that of the expected values."""
    max: float
    """Largest difference, divided by the largest expected magnitude."""


LIMITS: Mapping[Numbers, LayerError] = MappingProxyType(
    {
        "exact": LayerError(rms=1e-7, max=1e-7),
        "float32": LayerError(rms=1e-5, max=1e-4),
        "float16": LayerError(rms=1e-3, max=4e-3),
        "int8": LayerError(rms=5e-3, max=4e-2),
    }
)
"""Largest own error of a sound layer."""


class LayerRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer of a running engine, or one step before or after the layers."""

    name: str
    kind: str
    numbers: Numbers
    """What the graph's layer does to its numbers; the limit depends on it."""
    shape: tuple[int, ...]
    """Shape of its output for one view; for one image before the views and after their average."""
    network: LayerError | None
    """Difference from the trained network's layer; None without weights or where torch has no such step."""
    own: LayerError
    """Difference from ONNX's definition of the layer, applied to the engine's own input."""
    limit: LayerError
    """The largest own error of a sound layer."""

    @property
    def passed(self) -> bool:
        """True if its own error is within the limit."""
        return self.own.rms <= self.limit.rms and self.own.max <= self.limit.max


class LayerTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All layers of one engine."""

    backend: str
    version: str
    device: str
    precision: Precision
    arithmetic: str
    num_images: int
    num_views: int
    rows: tuple[LayerRow, ...]
    """In the order of the graph."""
    unfused_error: float
    """Largest difference of a probability between this engine, with outputs added, and the engine of the bundle; of a
    feature, divided by the largest magnitude."""
    allowed_unfused_error: float

    @property
    def engine(self) -> str:
        """The backend and its version."""
        return f"{self.backend} {self.version}"

    @property
    def at_fault(self) -> LayerRow | None:
        """The first layer whose own error exceeds its limit; None if there is none."""
        return next((row for row in self.rows if not row.passed), None)

    @property
    def fault(self) -> str | None:
        """What is wrong, in one sentence; None if nothing is."""
        row = self.at_fault
        if row is not None:
            others = [other.name for other in self.rows if not other.passed and other is not row]
            also = f"; also over their limits: {', '.join(others)}" if others else ""
            return (
                f"{self.engine}: {row.name} ({row.kind}) is at fault: on its own input it differs from ONNX's "
                f"definition by {_words(row)}; every layer before it is within its limit{also}"
            )
        if not self.unfused_error <= self.allowed_unfused_error:
            return (
                f"{self.engine}: every layer is within its limit while its output is added, but then the graph's "
                f"output changes by {self.unfused_error:.3g}, over {self.allowed_unfused_error:g}: the fault is in how "
                "the engine fuses layers"
            )
        return None


def _words(row: LayerRow) -> str:
    if not row.own.rms <= row.limit.rms:
        return f"{row.own.rms:.2g} (RMS), limit {row.limit.rms:g}"
    return f"{row.own.max:.2g} (max), limit {row.limit.max:g}"


@dataclass(slots=True)
class Difference:
    """The difference between expected and actual values, summed over batches."""

    squares: float = 0.0
    expected_squares: float = 0.0
    largest: float = 0.0
    expected_largest: float = 0.0

    def add(self, expected: np.ndarray, actual: np.ndarray) -> None:
        """Count a batch of values of one shape."""
        wanted, found = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):
            errors = found - wanted
        # Infinity in both is no difference, but infinity minus infinity is NaN.
        if not np.isfinite(errors).all():
            errors = np.where(found == wanted, 0.0, errors)
        self.squares += float(errors @ errors)
        self.expected_squares += float(wanted @ wanted)
        # np.maximum keeps NaN, max() may not.
        self.largest = float(np.maximum(self.largest, np.abs(errors).max()))
        self.expected_largest = float(np.maximum(self.expected_largest, np.abs(wanted).max()))

    def error(self) -> LayerError:
        """Return it relative to the expected values: 0 where nothing differs, infinite where all should be 0."""
        return LayerError(
            rms=math.sqrt(_ratio(self.squares, self.expected_squares)),
            max=_ratio(self.largest, self.expected_largest),
        )


def nearest(differences: Iterable[Difference]) -> LayerError:
    """Return the least of several errors; NaN only if all are."""
    errors = [difference.error() for difference in differences]
    return min(errors, key=lambda error: math.inf if math.isnan(error.rms) else error.rms)


def _ratio(error: float, size: float) -> float:
    if error == 0.0:
        return 0.0
    return error / size if size != 0.0 else math.inf


def layer_table(
    rows: tuple[LayerRow, ...], engine: Engine, *, num_images: int, num_views: int, unfused_error: float
) -> LayerTable:
    """Return the table of an engine's layers."""
    info = engine.info
    tolerance = engine_tolerance(info.precision, num_views, engine.output)
    allowed = tolerance.error if isinstance(tolerance, FeatureTolerance) else tolerance.probability
    return LayerTable(
        backend=info.backend,
        version=info.version,
        device=info.device,
        precision=info.precision,
        arithmetic=info.arithmetic,
        num_images=num_images,
        num_views=num_views,
        rows=rows,
        unfused_error=unfused_error,
        allowed_unfused_error=allowed,
    )
