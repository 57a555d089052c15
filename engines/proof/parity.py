"""Parity: the differences between an engine and the trained network, and their tolerances.

Every gate is written so that NaN fails it. Differences are computed in float64.
"""

import math
import statistics
import time
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.manifest import GOLDEN_SET, ParityRow, Tolerance
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import WrongAnswerError
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.engine import Engine

TOLERANCES: MappingProxyType[Precision, Tolerance] = MappingProxyType(
    {
        # The same sums in another order. Measured: under 6e-7 and 1.2e-5 on OpenVINO and ONNX Runtime, with the six
        # published architectures at full size and with networks trained on drawn images and on photographs.
        "fp32": Tolerance(probability=1e-5, log_probability=1e-4, top1_agreement=1.0),
        # Eleven bits for every weight and activation. Measured on the same networks, narrow: under 1.1e-3 and 5.3e-3.
        "fp16": Tolerance(probability=5e-3, log_probability=5e-2, top1_agreement=0.998),
        # Eight bits for the input and the weights of every product. Measured: 0.03 and 0.3 on photographs like the
        # calibration images; up to 0.19 and 3.1 on the golden drawings, whose activations exceed those of photographs.
        "int8": Tolerance(probability=0.25, log_probability=4.0, top1_agreement=0.99),
    }
)
"""Tolerance of each precision against the trained network; the manifest records it."""

_GRAPH_PROBABILITY, _GRAPH_LOG_PROBABILITY = 0.03, 0.3
"""Engines do not round exactly where an int8 graph says. Measured for ten views: 0.007 and 0.06 over the same networks,
0.016 and 0.16 with the other layers in float16, which CPUs compute in float32. One view: 0.047 and 0.20."""


def int8_candidate_tolerance(num_views: int) -> Tolerance:
    """Return the tolerance of an int8 graph's exact output against the trained network, required for publication.

    It is the tolerance of int8 minus that of an engine against its graph: an engine that agrees with such a graph
    agrees with the network too, on any CPU.
    """
    allowed, of_engine = TOLERANCES["int8"], int8_graph_tolerance(num_views)
    return Tolerance(
        probability=allowed.probability - of_engine.probability,
        log_probability=allowed.log_probability - of_engine.log_probability,
        top1_agreement=allowed.top1_agreement,
    )


def int8_graph_tolerance(num_views: int) -> Tolerance:
    """Return the tolerance of an engine against its own int8 graph, whose output is the mean over `num_views`.

    Rounding errors of different views are independent: the mean of ten deviates a third as far as one view.
    """
    wider = math.sqrt(10 / num_views)
    return Tolerance(
        probability=_GRAPH_PROBABILITY * wider,
        log_probability=_GRAPH_LOG_PROBABILITY * wider,
        top1_agreement=TOLERANCES["int8"].top1_agreement,
    )


def engine_tolerance(precision: Precision, num_views: int) -> Tolerance:
    """Return the tolerance between two engines of one graph, or between an engine and the graph's definition."""
    return int8_graph_tolerance(num_views) if precision == "int8" else TOLERANCES[precision]


LOG_FLOOR = 1e-30
"""Smaller probabilities are clamped to this: float32 ends near 1e-38, and engines underflow differently."""

_NUM_TIMED_RUNS = 5

_FEWEST_THAT_LOSE_ONE = 8

TIE = 1e-5
"""Two classes whose reference probabilities differ by less than this count as the same prediction."""

INT8_TIE = 0.02
"""The same for int8 on golden images and on images without labels: on photographs int8 moved 99 % of the
probabilities by less, so the order of two such classes is not evidence about the graph."""


def compare(
    expected: np.ndarray,
    actual: np.ndarray,
    engine: Engine,
    images: str,
    *,
    tolerance: Tolerance | None = None,
    tie: float = TIE,
    truths: np.ndarray | None = None,
    latency_ms: float | None = None,
) -> ParityRow:
    """Return the agreement of an engine's probabilities with the trained network's, both float (N, K).

    The default `tolerance` is that of the engine's precision. Classes whose expected probabilities differ by less than
    `tie` count as the same prediction. `truths` are the images' true classes, int (N,), if known.
    """
    tolerance = tolerance or TOLERANCES[engine.info.precision]
    assert expected.shape == actual.shape, "both are for the same images"
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    errors = np.abs(candidate - reference)
    top1_agreement, top5_agreement = _agreement(reference, candidate, tie)
    return _row(
        engine,
        images,
        len(reference),
        _Differences(
            max_error=float(errors.max()),
            p99_error=float(np.quantile(errors, 0.99)),
            max_log_error=_max_log_error(reference, candidate),
            kl_divergence=float(divergences(reference, candidate).mean()),
            top1_agreement=top1_agreement,
            top5_agreement=top5_agreement,
        ),
        shortfalls(expected, actual, tolerance, tie),
        top1_accuracy=None if truths is None else float((top1_predictions(candidate) == truths).mean()),
        latency_ms=latency_ms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """The measured differences of a parity row; the defaults mean that nothing could be compared."""

    max_error: float = math.nan
    p99_error: float = math.nan
    max_log_error: float = math.nan
    kl_divergence: float = math.nan
    top1_agreement: float = 0.0
    top5_agreement: float = 0.0


def _row(
    engine: Engine,
    images: str,
    num_images: int,
    found: _Differences,
    failures: tuple[str, ...],
    *,
    top1_accuracy: float | None = None,
    latency_ms: float | None = None,
) -> ParityRow:
    info = engine.info
    return ParityRow(
        backend=info.backend,
        version=info.version,
        device=info.device,
        precision=info.precision,
        arithmetic=info.arithmetic,
        images=images,
        num_images=num_images,
        max_error=found.max_error,
        p99_error=found.p99_error,
        max_log_error=found.max_log_error,
        kl_divergence=found.kl_divergence,
        top1_agreement=found.top1_agreement,
        top5_agreement=found.top5_agreement,
        top1_accuracy=top1_accuracy,
        latency_ms=latency_ms,
        failures=failures,
    )


def shortfalls(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance, tie: float = TIE) -> tuple[str, ...]:
    """Return a description of each difference beyond the tolerance between two arrays of probabilities, (N, K)."""
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    max_error = float(np.abs(candidate - reference).max())
    max_log_error = _max_log_error(reference, candidate)
    top1_agreement = float(same_prediction(reference, candidate, tie).mean())
    found = []
    if not np.isfinite(candidate).all():
        num_bad = int((~np.isfinite(candidate)).any(axis=1).sum())
        found.append(f"{num_bad} of {counted(len(candidate), 'row')} contain NaN or infinity")
    if not max_error <= tolerance.probability:
        found.append(f"a probability is off by {max_error:.3g}, over {tolerance.probability:g}")
    if not max_log_error <= tolerance.log_probability:
        found.append(f"a log-probability is off by {max_log_error:.3g}, over {tolerance.log_probability:g}")
    if not top1_agreement >= least_agreement(tolerance, len(reference)):
        found.append(f"top-1 agreement is {top1_agreement:.2%}, under {tolerance.top1_agreement:.2%}")
    return tuple(found)


def least_agreement(tolerance: Tolerance, num_images: int) -> float:
    """Return the minimum top-1 agreement on `num_images` images, 0..1.

    If the tolerance is below 1, one image may always differ: 99 % of eight images would be all of them. With fewer than
    eight images, all must agree.
    """
    needed = tolerance.top1_agreement
    may_lose_one = needed < 1.0 and num_images >= _FEWEST_THAT_LOSE_ONE
    return min(needed, 1 - 1 / num_images) if may_lose_one else 1.0


def separation(expected: np.ndarray, faulty: np.ndarray, tolerance: Tolerance) -> float:
    """Return the error of a faulty network as a multiple of the tolerance; above 1 the fault is detected."""
    reference, candidate = expected.astype(np.float64), faulty.astype(np.float64)
    moved = np.abs(candidate - reference).max() / tolerance.probability
    moved_log = np.abs(_log(candidate) - _log(reference)).max() / tolerance.log_probability
    return float(max(moved, moved_log))


def prove(engine: Engine, bundle: Bundle) -> tuple[ParityRow, ...]:
    """Run a bundle's golden images on an engine and compare the results; raises IntegrityError for damaged vectors.

    An engine of an int8 graph is compared with the trained network and with the exact output of its graph. The
    tolerances are this program's: those in the manifest are only a record. An output that is not probabilities is a
    failed row.
    """
    golden = bundle.manifest.golden
    expected = bundle.read_tensor(golden.probabilities)
    images = bundle.read_tensor(golden.images)
    try:
        actual = engine.run(images)
    except WrongAnswerError as error:
        return (wrong_answer_row(error, engine, GOLDEN_SET, len(images)),)
    latency_ms = latency_of(engine, images[:1])
    tie = INT8_TIE if engine.info.precision == "int8" else TIE
    rows = [compare(expected, actual, engine, GOLDEN_SET, tie=tie, latency_ms=latency_ms)]
    if golden.graph is not None and engine.info.precision == "int8":
        own = bundle.read_tensor(golden.graph.probabilities)
        own_tolerance = int8_graph_tolerance(len(bundle.manifest.views.crops))
        row = compare(own, actual, engine, GOLDEN_SET, tolerance=own_tolerance, latency_ms=latency_ms)
        rows.append(msgspec.structs.replace(row, against="graph"))
    return tuple(rows)


def wrong_answer_row(error: WrongAnswerError, engine: Engine, images: str, num_images: int) -> ParityRow:
    """Return the failed row of an engine whose output is not probabilities and cannot be compared."""
    return _row(engine, images, num_images, _Differences(), (str(error),))


def latency_of(engine: Engine, images: np.ndarray) -> float:
    """Return the median latency of a run of these images in milliseconds; the engine must be warmed up."""
    seconds = []
    for _ in range(_NUM_TIMED_RUNS):
        started = time.perf_counter()
        engine.run(images)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def divergences(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return the Kullback-Leibler divergence of each candidate row from its reference row, in nats, float64 (N,)."""
    wanted, found = reference.astype(np.float64), candidate.astype(np.float64)
    terms: np.ndarray = wanted * (_log(wanted) - _log(found))
    # Rows of float32 sum to 1 only approximately, so a divergence of 0 can come out negative.
    sums: np.ndarray = np.maximum(terms.sum(axis=1), 0.0)
    return sums


def same_prediction(reference: np.ndarray, candidate: np.ndarray, tie: float = TIE) -> np.ndarray:
    """Return for each row whether both have the same top-1 prediction, bool (N,).

    Classes whose reference probabilities differ by less than `tie` count as the same prediction. A row with NaN has no
    prediction.
    """
    predicted = top1_predictions(candidate)
    first = reference[np.arange(len(reference)), predicted]
    same: np.ndarray = (predicted >= 0) & (first >= reference.max(axis=1) - tie)
    return same


def top1_predictions(probabilities: np.ndarray) -> np.ndarray:
    """Return the top-1 prediction of each row, int (N,); -1 for a row with NaN or infinity."""
    predicted: np.ndarray = np.where(np.isfinite(probabilities).all(axis=1), probabilities.argmax(axis=1), -1)
    return predicted


def _log(probabilities: np.ndarray) -> np.ndarray:
    # np.maximum propagates NaN, so that it fails the gate.
    logs: np.ndarray = np.log(np.maximum(probabilities, LOG_FLOOR))
    return logs


def _max_log_error(reference: np.ndarray, candidate: np.ndarray) -> float:
    return float(np.abs(_log(candidate) - _log(reference)).max())


def _agreement(reference: np.ndarray, candidate: np.ndarray, tie: float) -> tuple[float, float]:
    top1 = float(same_prediction(reference, candidate, tie).mean())
    num_top = min(5, reference.shape[1])
    best = np.argsort(-reference, axis=1, kind="stable")[:, :num_top]
    found = np.argsort(-candidate, axis=1, kind="stable")[:, :num_top]
    shared = [len(np.intersect1d(left, right)) for left, right in zip(best, found, strict=True)]
    return top1, float(np.mean(shared) / num_top)
