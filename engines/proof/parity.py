"""Parity: the differences between an engine and the trained network, and their tolerances.

Every gate is written so that NaN fails it. Differences are computed in float64.
"""

import math
import statistics
import time

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.manifest import GOLDEN_SET, ParityRow
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import WrongAnswerError
from alexnet_deploy.core.golden.record import AnyTolerance, FeatureTolerance
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.engines.proof.features import (
    cosine_distances,
    feature_separation,
    feature_shortfalls,
    relative_errors,
)
from alexnet_deploy.engines.proof.tolerances import engine_tolerance, tolerance_of

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
    tolerance: AnyTolerance | None = None,
    tie: float = TIE,
    truths: np.ndarray | None = None,
    latency_ms: float | None = None,
) -> ParityRow:
    """Return the agreement of an engine's outputs with the trained network's, both float (N, K) or (N, D).

    The default `tolerance` is that of the engine's precision and output. Classes whose expected probabilities differ by
    less than `tie` count as the same prediction. `truths` are the images' true classes, int (N,), if known; features
    have no predictions, so they are not used.
    """
    tolerance = tolerance or tolerance_of(engine.info.precision, engine.output)
    assert expected.shape == actual.shape, "both are for the same images"
    row = _row(engine, images, len(expected), shortfalls(expected, actual, tolerance, tie), latency_ms)
    if isinstance(tolerance, FeatureTolerance):
        errors = relative_errors(expected, actual)
        return msgspec.structs.replace(
            row,
            max_error=float(errors.max()),
            p99_error=float(np.quantile(errors, 0.99)),
            max_cosine_distance=float(cosine_distances(expected, actual).max()),
        )
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    errors = np.abs(candidate - reference)
    top1_agreement, top5_agreement = _agreement(reference, candidate, tie)
    return msgspec.structs.replace(
        row,
        max_error=float(errors.max()),
        p99_error=float(np.quantile(errors, 0.99)),
        max_log_error=_max_log_error(reference, candidate),
        kl_divergence=float(divergences(reference, candidate).mean()),
        top1_agreement=top1_agreement,
        top5_agreement=top5_agreement,
        top1_accuracy=None if truths is None else float((top1_predictions(candidate) == truths).mean()),
    )


def _row(
    engine: Engine, images: str, num_images: int, failures: tuple[str, ...], latency_ms: float | None = None
) -> ParityRow:
    """Return a row in which nothing could be compared."""
    info = engine.info
    row = ParityRow(
        backend=info.backend,
        version=info.version,
        device=info.device,
        precision=info.precision,
        arithmetic=info.arithmetic,
        images=images,
        num_images=num_images,
        max_error=math.nan,
        p99_error=math.nan,
        top1_accuracy=None,
        latency_ms=latency_ms,
        failures=failures,
    )
    if engine.output.layer is not None:
        return msgspec.structs.replace(row, max_cosine_distance=math.nan)
    return msgspec.structs.replace(
        row, max_log_error=math.nan, kl_divergence=math.nan, top1_agreement=0.0, top5_agreement=0.0
    )


def shortfalls(expected: np.ndarray, actual: np.ndarray, tolerance: AnyTolerance, tie: float = TIE) -> tuple[str, ...]:
    """Return a description of each difference beyond the tolerance between two arrays of outputs of its kind."""
    if isinstance(tolerance, FeatureTolerance):
        return feature_shortfalls(expected, actual, tolerance)
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
    if not top1_agreement >= least_agreement(tolerance.top1_agreement, len(reference)):
        found.append(f"top-1 agreement is {top1_agreement:.2%}, under {tolerance.top1_agreement:.2%}")
    return tuple(found)


def least_agreement(needed: float, num_images: int) -> float:
    """Return the minimum agreement on `num_images` images, 0..1, if this share of many images is needed.

    If it is below 1, one image may always differ: 99 % of eight images would be all of them. With fewer than
    eight images, all must agree.
    """
    may_lose_one = needed < 1.0 and num_images >= _FEWEST_THAT_LOSE_ONE
    # As one division, so that it is the same number as the mean over the images: 1 - 1/19 is above 18/19 in float64.
    return min(needed, (num_images - 1) / num_images) if may_lose_one else 1.0


def separation(expected: np.ndarray, faulty: np.ndarray, tolerance: AnyTolerance) -> float:
    """Return the error of a faulty network as a multiple of the tolerance; above 1 the fault is detected."""
    if isinstance(tolerance, FeatureTolerance):
        return feature_separation(expected, faulty, tolerance)
    reference, candidate = expected.astype(np.float64), faulty.astype(np.float64)
    moved = np.abs(candidate - reference).max() / tolerance.probability
    moved_log = np.abs(_log(candidate) - _log(reference)).max() / tolerance.log_probability
    return float(max(moved, moved_log))


def prove(engine: Engine, bundle: Bundle) -> tuple[ParityRow, ...]:
    """Run a bundle's golden images on an engine and compare the results; raises IntegrityError for damaged vectors.

    An engine of an int8 graph is compared with the trained network and with the exact output of its graph. The
    tolerances are this program's: those in the manifest are only a record. An output that breaks the contract is a
    failed row.
    """
    golden = bundle.manifest.golden
    expected = bundle.read_tensor(golden.expected)
    images = bundle.read_tensor(golden.images)
    try:
        actual = engine.run(images)
    except WrongAnswerError as error:
        return (wrong_answer_row(error, engine, GOLDEN_SET, len(images)),)
    latency_ms = latency_of(engine, images[:1])
    tie = INT8_TIE if engine.info.precision == "int8" else TIE
    rows = [compare(expected, actual, engine, GOLDEN_SET, tie=tie, latency_ms=latency_ms)]
    if golden.graph is not None and engine.info.precision == "int8":
        own = bundle.read_tensor(golden.graph.expected)
        own_tolerance = engine_tolerance("int8", len(bundle.manifest.views.crops), engine.output)
        row = compare(own, actual, engine, GOLDEN_SET, tolerance=own_tolerance, latency_ms=latency_ms)
        rows.append(msgspec.structs.replace(row, against="graph"))
    return tuple(rows)


def wrong_answer_row(error: WrongAnswerError, engine: Engine, images: str, num_images: int) -> ParityRow:
    """Return the failed row of an engine whose output breaks the contract and cannot be compared."""
    return _row(engine, images, num_images, (str(error),))


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
