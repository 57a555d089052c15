"""From trained weights and images to an INT8 graph that agrees with them: calibration, sensitivity, the gate.

The reference here is the FP32 graph on the fastest engine. It was compared with the trained network first: the same
probabilities to 1e-5, several times as fast.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.accuracy import Accuracy, Fallback, Gate
from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.quantization import WEIGHT_LEVEL, Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import ParityError, UsageError
from alexnet_deploy.core.images.batches import ImageSet, decode_batches
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.inputs.labelled import LabelledFolder
from alexnet_deploy.core.model.architecture import Conv, LayerCost, Linear
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.engines.engine import Engine, GraphSource, open_graph
from alexnet_deploy.engines.proof.accuracy import measure_accuracy
from alexnet_deploy.engines.proof.features import cosine_distances
from alexnet_deploy.engines.proof.parity import (
    INT8_TIE,
    divergences,
    least_agreement,
    same_prediction,
    separation,
    shortfalls,
)
from alexnet_deploy.engines.proof.tolerances import INT8_COSINE_DISTANCE, LEAST_INT8_AGREEMENT, candidate_tolerance
from alexnet_deploy.export.calibration import Histogram
from alexnet_deploy.export.graph import build_graph
from alexnet_deploy.export.reference import exact_answers
from alexnet_deploy.pipeline.int8.calibration import Calibrated, Int8Request, calibrate, evenly, refuse_empty

_NUM_SENSITIVITY_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """An INT8 graph's ranges, with the measurements behind them."""

    quantization: Quantization
    gate: Gate
    histograms: dict[str, Histogram]
    """Histogram of each layer's input, except the first layer's."""


def quantize(
    subject: Subject,
    request: Int8Request,
    *,
    data: LabelledFolder | None,
    say: Say = say_nothing,
) -> Quantized:
    """Calibrate on real images, measure what INT8 costs, and move layers back to float until the gate passes.

    The calibration method is the requested one, or else the first that passes on the golden images. With `data` the
    gate is the drop in top-1 on it, otherwise the agreement on the calibration images; in both cases the graph must
    pass on the golden images too. Raises ParityError where the gate cannot pass, UsageError for wrong options,
    DataError where no image can be decoded.
    """
    refuse_request(subject.costs(), request)
    calibrated = calibrate(subject.weights, request, say, subject.output_layer)
    images = calibrated.images
    golden = _GoldenAnswers(subject)
    wanted = _choose_method(_candidates(calibrated, request), golden, say)
    say("measuring the sensitivity of each layer to int8")
    sensitivity = _sensitivities(subject, wanted, images)
    judge = _Judge(subject, request, images, data, golden, say)
    quantization, verdict, fallbacks = _fall_back(wanted, sensitivity, judge, say)
    gate = Gate.by(verdict.measured, sensitivity, fallbacks)
    return Quantized(quantization=quantization, gate=gate, histograms=calibrated.histograms)


def refuse_request(costs: Iterable[LayerCost], request: Int8Request) -> None:
    """Raise UsageError for options that are wrong for these layers, before anything is measured."""
    products = [cost.layer.name for cost in costs if isinstance(cost.layer, Conv | Linear)]
    if unknown := set(request.keep_float) - set(products):
        raise UsageError(
            f"{', '.join(sorted(unknown))}: not a layer that can be in int8; choose from {', '.join(products)}"
        )
    if set(request.keep_float) == set(products):
        raise UsageError("all layers are kept in float, so none would be in int8; export fp32 or fp16 instead")
    if request.calibrate is not None:
        refuse_empty(request.calibrate)
    if request.cache is not None and not request.cache.parent.is_dir():
        raise UsageError(f"{request.cache}: the folder of the calibration cache does not exist")


def open_weights(subject: Subject, quantization: Quantization | None = None) -> Engine:
    """Open a network on the fastest engine, without a bundle: in INT8, or in FP32 without `quantization`."""
    precision: Precision = "fp32" if quantization is None else "int8"
    source = GraphSource(
        name=f"the {precision} graph of {subject.weights.architecture.name}",
        data=_graph(subject, precision, quantization),
        precision=precision,
        output=subject.output,
        num_views=len(subject.views),
    )
    return open_graph(source)


def _graph(subject: Subject, precision: Precision, quantization: Quantization | None) -> bytes:
    graph = build_graph(subject.weights, subject.views, precision, quantization, subject.output_layer)
    return bytes(graph.SerializeToString())


class _GoldenAnswers:
    """Compares candidates with the trained network's outputs for the golden images.

    A candidate is evaluated by ONNX's own definition of its graph and must leave the engines their share of the
    tolerance: then, on any CPU, an engine that agrees with its graph agrees with the network too.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._images = golden_images()
        self._tolerance = candidate_tolerance(len(subject.views), subject.output)
        with open_weights(subject) as engine:
            self._expected = engine.run(self._images)
        self._answers: dict[tuple[tuple[str, float], ...], np.ndarray] = {}

    def __call__(self, quantization: Quantization) -> tuple[float, tuple[str, ...]]:
        """Return the largest error as a multiple of the tolerance, and a description of each failure."""
        # Choosing the method and the gate's first verdict evaluate the same ranges.
        key = tuple(quantization.ranges.items())
        if key not in self._answers:
            self._answers[key] = exact_answers(_graph(self._subject, "int8", quantization), self._images)
        actual = self._answers[key]
        found = separation(self._expected, actual, self._tolerance)
        return found, shortfalls(self._expected, actual, self._tolerance, INT8_TIE)


def _candidates(calibrated: Calibrated, request: Int8Request) -> list[Quantization]:
    """Return one quantisation for each method to try, in order."""
    by_method = {calibrated.calibration.method: calibrated.ranges, **calibrated.alternatives}
    return [
        Quantization(
            ranges={layer: amax for layer, amax in ranges.items() if layer not in request.keep_float},
            rest=request.rest,
            calibration=msgspec.structs.replace(calibrated.calibration, method=method),
            weight_level=WEIGHT_LEVEL,
        )
        for method, ranges in by_method.items()
    ]


def _choose_method(candidates: list[Quantization], golden: _GoldenAnswers, say: Say) -> Quantization:
    """Return the first candidate that passes on the golden images; if none does, the one with the smallest error."""
    if len(candidates) == 1:
        return candidates[0]
    errors: list[float] = []
    for candidate in candidates:
        error, failures = golden(candidate)
        if not failures:
            if errors:
                say(f"calibration method: {candidate.calibration.method}")
            return candidate
        say(f"calibration by {candidate.calibration.method} fails on the golden images: {', '.join(failures)}")
        # NaN is not ordered: it counts as the largest error.
        errors.append(error if error == error else float("inf"))
    best = candidates[errors.index(min(errors))]
    say(f"every calibration method fails on the golden images; using {best.calibration.method}: its error is smallest")
    return best


def _sensitivities(subject: Subject, wanted: Quantization, images: ImageSet) -> dict[str, float]:
    """Return each layer's mean divergence from FP32 when only that layer is in int8; largest first.

    Of probabilities it is in nats; of features it is the cosine distance.
    """
    files = evenly(images.sources, _NUM_SENSITIVITY_IMAGES)
    center = replace(subject, views=views_by_name("center", subject.weights.architecture.input_size))
    batches = list(decode_batches(files, subject.weights.preprocessing.image_policy))
    diverge = divergences if subject.output_layer is None else cosine_distances
    with open_weights(center) as engine:
        expected = engine.run_all(batches)
    found = {}
    for layer, amax in wanted.ranges.items():
        alone = msgspec.structs.replace(wanted, ranges={layer: amax})
        with open_weights(center, alone) as engine:
            found[layer] = float(diverge(expected, engine.run_all(batches)).mean())
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The gate's result: accuracy if there are labelled images, otherwise the agreement on the calibration images."""

    measured: Accuracy | float
    num_images: int
    golden_failures: tuple[str, ...]
    """Where the outputs for the golden images are out of tolerance."""
    agreement: str
    """What agreement is a share of: the words for it."""

    @property
    def passed(self) -> bool:
        return self._measured_passed and not self.golden_failures

    @property
    def words(self) -> str:
        golden = f"; golden images: {', '.join(self.golden_failures)}" if self.golden_failures else ""
        return self._measured_words + golden

    @property
    def _measured_passed(self) -> bool:
        if isinstance(self.measured, Accuracy):
            return self.measured.passed
        return self.measured >= self._least

    @property
    def _measured_words(self) -> str:
        if isinstance(found := self.measured, Accuracy):
            low, high = found.interval_points
            return (
                f"top-1 {found.candidate_top1:.2%}, FP32 {found.reference_top1:.2%}: a drop of {found.drop_points:.2f} "
                f"points (95 % interval {low:.2f} to {high:.2f}), limit {found.max_drop_points:g}"
            )
        return f"{self.agreement} {found:.2%} on the calibration images, minimum {self._least:.2%}"

    @property
    def _least(self) -> float:
        return least_agreement(LEAST_INT8_AGREEMENT, self.num_images)


class _Judge:
    """Compares candidates with the trained network's outputs for the images."""

    def __init__(
        self,
        subject: Subject,
        request: Int8Request,
        images: ImageSet,
        data: LabelledFolder | None,
        golden: _GoldenAnswers,
        say: Say,
    ) -> None:
        self._golden = golden
        self._subject, self._request, self._data = subject, request, data
        self._sources = images.sources if data is None else tuple(image.path for image in data.images)
        say(f"running the FP32 graph on {counted(len(self._sources), 'image')}")
        self._expected = self._ask(None)

    def __call__(self, quantization: Quantization) -> _Verdict:
        actual = self._ask(quantization)
        _, golden_failures = self._golden(quantization)
        measured: Accuracy | float
        if self._data is None:
            measured = float(self._same(actual).mean())
        else:
            limit = self._request.max_drop_points
            measured = measure_accuracy(
                self._data, self._subject.weights.labels, self._expected, actual, max_drop_points=limit
            )
        agreement = "top-1 agreement" if self._subject.output_layer is None else "agreement of features"
        return _Verdict(measured=measured, num_images=len(actual), golden_failures=golden_failures, agreement=agreement)

    def _same(self, actual: np.ndarray) -> np.ndarray:
        """Return for each image whether the candidate agrees, bool (N,)."""
        if self._subject.output_layer is not None:
            is_near: np.ndarray = cosine_distances(self._expected, actual) <= INT8_COSINE_DISTANCE
            return is_near
        return same_prediction(self._expected, actual, INT8_TIE)

    def _ask(self, quantization: Quantization | None) -> np.ndarray:
        with open_weights(self._subject, quantization) as engine:
            return engine.run_all(decode_batches(self._sources, self._subject.weights.preprocessing.image_policy))


def _fall_back(
    wanted: Quantization, sensitivity: dict[str, float], judge: _Judge, say: Say
) -> tuple[Quantization, _Verdict, tuple[Fallback, ...]]:
    """Move the most sensitive layer from int8 back to float, one at a time, until the gate passes."""
    quantization = wanted
    fallbacks: list[Fallback] = []
    worst_first = iter(sensitivity)
    while not (verdict := judge(quantization)).passed:
        say(f"int8 in {', '.join(quantization.ranges)}: {verdict.words}")
        if len(quantization.ranges) == 1:
            raise ParityError(f"nothing was published: even with only one layer in int8, {verdict.words}")
        layer = next(worst_first)
        say(f"moving {layer}, the most sensitive of them, back to float")
        remaining = {name: amax for name, amax in quantization.ranges.items() if name != layer}
        quantization = msgspec.structs.replace(quantization, ranges=remaining)
        fallbacks.append(Fallback(layer=layer, because=verdict.words))
    say(f"int8 in {', '.join(quantization.ranges)}: {verdict.words}")
    return quantization, verdict, tuple(fallbacks)
