"""How far an engine is from the trained network, and whether that is near enough.

Every gate is written so that NaN fails it. Differences are taken in float64.
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
        # The same sums in another order. The six published architectures at full size, and networks trained on drawn
        # images and on photographs, stayed under 6e-7 and 1.2e-5 on OpenVINO and ONNX Runtime.
        "fp32": Tolerance(probability=1e-5, log_probability=1e-4, top1_agreement=1.0),
        # Eleven bits of every weight and activation. The same networks, narrow, stayed under 1.1e-3 and 5.3e-3.
        "fp16": Tolerance(probability=5e-3, log_probability=5e-2, top1_agreement=0.998),
        # Eight bits of every product's input and of its weights. On photographs like those they were calibrated on,
        # 0.03 and 0.3; on the golden drawings, which reach beyond what photographs do, up to 0.19 and 3.1.
        "int8": Tolerance(probability=0.25, log_probability=4.0, top1_agreement=0.99),
    }
)
"""What each precision may cost against the trained network, and why; the manifest repeats it."""

_GRAPH_PROBABILITY, _GRAPH_LOG_PROBABILITY = 0.03, 0.3
"""Engines round elsewhere than an int8 graph says. The mean of ten views: 0.007 and 0.06 over all the same networks,
0.016 and 0.16 with a remainder in float16, which CPUs compute in float32. One view: 0.047 and 0.20."""


def int8_candidate_tolerance(num_views: int) -> Tolerance:
    """Return how far the exact answers of an int8 graph may be from the trained network's before it is published.

    It is the tolerance of int8 less that of an engine against its graph: an engine that agrees with such a graph agrees
    with the network too, on any CPU.
    """
    allowed, of_engine = TOLERANCES["int8"], int8_graph_tolerance(num_views)
    return Tolerance(
        probability=allowed.probability - of_engine.probability,
        log_probability=allowed.log_probability - of_engine.log_probability,
        top1_agreement=allowed.top1_agreement,
    )


def int8_graph_tolerance(num_views: int) -> Tolerance:
    """Return how far an engine may be from what its own int8 graph says, whose answers are a mean over `num_views`.

    Roundings of different views are independent: the mean of ten strays a third as far as one.
    """
    wider = math.sqrt(10 / num_views)
    return Tolerance(
        probability=_GRAPH_PROBABILITY * wider,
        log_probability=_GRAPH_LOG_PROBABILITY * wider,
        top1_agreement=TOLERANCES["int8"].top1_agreement,
    )


LOG_FLOOR = 1e-30
"""Smaller probabilities count as this: float32 ends near 1e-38, and engines differ in how."""

_NUM_TIMED_RUNS = 5

_FEWEST_THAT_LOSE_ONE = 8

TIE = 1e-5
"""Two classes whose reference probabilities are nearer than this are one guess."""

INT8_TIE = 0.02
"""The same for int8 on golden images and wherever there are no labels: on photographs int8 moved 99 % of the
probabilities by less, so the order of two such classes says nothing about the graph."""


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

    Without a `tolerance` it is that of the precision of the graph that the engine runs. Classes whose expected
    probabilities are nearer than `tie` are one guess. `truths` are the images' classes, int (N,), where they are known.
    """
    tolerance = tolerance or TOLERANCES[engine.info.precision]
    assert expected.shape == actual.shape, "both are of the same images"
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
        top1_accuracy=None if truths is None else float((first_guesses(candidate) == truths).mean()),
        latency_ms=latency_ms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """What a parity row says of the probabilities; by default that nothing could be compared."""

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
    """Return each way in which probabilities differ from the expected ones by more than the tolerance; float (N, K)."""
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    max_error = float(np.abs(candidate - reference).max())
    max_log_error = _max_log_error(reference, candidate)
    top1_agreement = float(same_first_guess(reference, candidate, tie).mean())
    found = []
    if not np.isfinite(candidate).all():
        found.append(f"{int((~np.isfinite(candidate)).any(axis=1).sum())} of {counted(len(candidate), 'row')} hold NaN")
    if not max_error <= tolerance.probability:
        found.append(f"a probability is off by {max_error:.3g}, over {tolerance.probability:g}")
    if not max_log_error <= tolerance.log_probability:
        found.append(f"a log-probability is off by {max_log_error:.3g}, over {tolerance.log_probability:g}")
    if not top1_agreement >= least_agreement(tolerance, len(reference)):
        found.append(f"{top1_agreement:.2%} have the same first guess, under {tolerance.top1_agreement:.2%}")
    return tuple(found)


def least_agreement(tolerance: Tolerance, num_images: int) -> float:
    """Return the least share of first guesses that must be the same of so many images, 0..1.

    Where any may differ, one may: of eight images 99 % cannot be asked for. Of fewer, all must be the same.
    """
    needed = tolerance.top1_agreement
    may_lose_one = needed < 1.0 and num_images >= _FEWEST_THAT_LOSE_ONE
    return min(needed, 1 - 1 / num_images) if may_lose_one else 1.0


def separation(expected: np.ndarray, faulty: np.ndarray, tolerance: Tolerance) -> float:
    """Return how far a faulty network is from the true one, as a multiple of the tolerance; over 1 it is caught."""
    reference, candidate = expected.astype(np.float64), faulty.astype(np.float64)
    moved = np.abs(candidate - reference).max() / tolerance.probability
    moved_log = np.abs(_log(candidate) - _log(reference)).max() / tolerance.log_probability
    return float(max(moved, moved_log))


def prove(engine: Engine, bundle: Bundle) -> tuple[ParityRow, ...]:
    """Run a bundle's golden images on an engine, and compare; raises IntegrityError for damaged vectors.

    An engine of an int8 graph is compared with the trained network and with what the graph itself says. The tolerances
    are this program's own: what the bundle says of them is a record, not a permission. An answer that is not
    probabilities is a failed row.
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
    """Return the failed row of an engine whose answer is not probabilities, so that nothing could be compared."""
    return _row(engine, images, num_images, _Differences(), (str(error),))


def latency_of(engine: Engine, images: np.ndarray) -> float:
    """Return the median time of a run of these images in milliseconds, after the engine has run once before."""
    seconds = []
    for _ in range(_NUM_TIMED_RUNS):
        begun = time.perf_counter()
        engine.run(images)
        seconds.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(seconds)


def divergences(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return the Kullback-Leibler divergence of each candidate row from its reference row, in nats, float64 (N,)."""
    wanted, found = reference.astype(np.float64), candidate.astype(np.float64)
    terms: np.ndarray = wanted * (_log(wanted) - _log(found))
    # Rows of float32 sum to 1 only nearly, which can make a divergence of nothing come out negative.
    sums: np.ndarray = np.maximum(terms.sum(axis=1), 0.0)
    return sums


def same_first_guess(reference: np.ndarray, candidate: np.ndarray, tie: float = TIE) -> np.ndarray:
    """Return for each row whether both guess the same first, bool (N,).

    Classes whose reference probabilities are nearer than `tie` are one guess. A row that holds NaN guesses nothing.
    """
    guesses = first_guesses(candidate)
    first = reference[np.arange(len(reference)), guesses]
    same: np.ndarray = (guesses >= 0) & (first >= reference.max(axis=1) - tie)
    return same


def first_guesses(probabilities: np.ndarray) -> np.ndarray:
    """Return the most probable class of each row, int (N,); -1 where the row holds NaN or infinity."""
    guesses: np.ndarray = np.where(np.isfinite(probabilities).all(axis=1), probabilities.argmax(axis=1), -1)
    return guesses


def _log(probabilities: np.ndarray) -> np.ndarray:
    # np.maximum passes NaN on, so that it fails the gate.
    logs: np.ndarray = np.log(np.maximum(probabilities, LOG_FLOOR))
    return logs


def _max_log_error(reference: np.ndarray, candidate: np.ndarray) -> float:
    return float(np.abs(_log(candidate) - _log(reference)).max())


def _agreement(reference: np.ndarray, candidate: np.ndarray, tie: float) -> tuple[float, float]:
    top1 = float(same_first_guess(reference, candidate, tie).mean())
    num_guesses = min(5, reference.shape[1])
    best = np.argsort(-reference, axis=1, kind="stable")[:, :num_guesses]
    found = np.argsort(-candidate, axis=1, kind="stable")[:, :num_guesses]
    shared = [len(np.intersect1d(left, right)) for left, right in zip(best, found, strict=True)]
    return top1, float(np.mean(shared) / num_guesses)
