"""How far an engine is from the trained network, and whether that is near enough.

Every gate is written so that NaN fails it. Differences are taken in float64.
"""

from types import MappingProxyType

import numpy as np

from alexnet_deploy.core.bundle import Bundle
from alexnet_deploy.core.manifest import GOLDEN_PICTURES, ParityRow, Precision, Tolerance
from alexnet_deploy.engines.engine import Engine

TOLERANCES: MappingProxyType[Precision, Tolerance] = MappingProxyType(
    {
        # The same sums in another order. The six published architectures at full size, and networks trained on drawn
        # pictures and on photographs, stayed under 6e-7 and 1.2e-5 on OpenVINO and ONNX Runtime.
        "fp32": Tolerance(probability=1e-5, log_probability=1e-4, top1_agreement=1.0),
        # Eleven bits of every weight and activation. The same networks, narrow, stayed under 1.1e-3 and 5.3e-3.
        "fp16": Tolerance(probability=5e-3, log_probability=5e-2, top1_agreement=0.998),
    }
)
"""What each precision may cost, and why; the manifest repeats it."""

_LOG_FLOOR = 1e-30
"""Smaller probabilities count as this: float32 ends near 1e-38, and engines differ in how."""

_TIE = 1e-5
"""Two classes whose reference probabilities are nearer than this are one guess."""


def compare(expected: np.ndarray, actual: np.ndarray, engine: Engine, tolerance: Tolerance, pictures: str) -> ParityRow:
    """Return the agreement of an engine's probabilities with the trained network's, both float (N, K)."""
    assert expected.shape == actual.shape, "both are of the same pictures"
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    errors = np.abs(candidate - reference)
    max_log_error = float(np.abs(_log(candidate) - _log(reference)).max())
    top1_agreement, top5_agreement = _agreement(reference, candidate)
    max_error = float(errors.max())
    failures = []
    if not np.isfinite(candidate).all():
        failures.append(f"{int((~np.isfinite(candidate)).any(axis=1).sum())} of {len(candidate)} rows hold NaN")
    if not max_error <= tolerance.probability:
        failures.append(f"a probability is off by {max_error:.3g}, over {tolerance.probability:g}")
    if not max_log_error <= tolerance.log_probability:
        failures.append(f"a log-probability is off by {max_log_error:.3g}, over {tolerance.log_probability:g}")
    if not top1_agreement >= tolerance.top1_agreement:
        failures.append(f"{top1_agreement:.2%} have the same first guess, under {tolerance.top1_agreement:.2%}")
    info = engine.info
    return ParityRow(
        backend=info.backend,
        version=info.version,
        device=info.device,
        arithmetic=info.arithmetic,
        pictures=pictures,
        num_images=len(reference),
        max_error=max_error,
        p99_error=float(np.quantile(errors, 0.99)),
        max_log_error=max_log_error,
        top1_agreement=top1_agreement,
        top5_agreement=top5_agreement,
        failures=tuple(failures),
    )


def separation(expected: np.ndarray, faulty: np.ndarray, tolerance: Tolerance) -> float:
    """Return how far a faulty network is from the true one, as a multiple of the tolerance; over 1 it is caught."""
    reference, candidate = expected.astype(np.float64), faulty.astype(np.float64)
    moved = np.abs(candidate - reference).max() / tolerance.probability
    moved_log = np.abs(_log(candidate) - _log(reference)).max() / tolerance.log_probability
    return float(max(moved, moved_log))


def prove(engine: Engine, bundle: Bundle) -> ParityRow:
    """Run a bundle's golden pictures on an engine, and compare; raises IntegrityError for damaged vectors.

    The tolerance is this program's own: what the bundle says of it is a record, not a permission.
    """
    golden = bundle.manifest.golden
    expected = bundle.read_tensor(golden.probabilities)
    actual = engine.run(bundle.read_tensor(golden.images))
    return compare(expected, actual, engine, TOLERANCES[bundle.manifest.precision], GOLDEN_PICTURES)


def _log(probabilities: np.ndarray) -> np.ndarray:
    # np.maximum passes NaN on, so that it fails the gate.
    logs: np.ndarray = np.log(np.maximum(probabilities, _LOG_FLOOR))
    return logs


def _agreement(reference: np.ndarray, candidate: np.ndarray) -> tuple[float, float]:
    rows = np.arange(len(reference))
    first = reference[rows, candidate.argmax(axis=1)]
    top1 = float((first >= reference.max(axis=1) - _TIE).mean())
    num_guesses = min(5, reference.shape[1])
    best = np.argsort(-reference, axis=1, kind="stable")[:, :num_guesses]
    found = np.argsort(-candidate, axis=1, kind="stable")[:, :num_guesses]
    shared = [len(np.intersect1d(left, right)) for left, right in zip(best, found, strict=True)]
    return top1, float(np.mean(shared) / num_guesses)
