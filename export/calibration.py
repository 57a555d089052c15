"""Calibration: histograms of each layer's input on real images, and the int8 ranges chosen from them.

Each histogram doubles its range when a larger magnitude arrives, so memory does not grow with the number of images. The
range is chosen from the histogram afterwards, by any method.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.bundle.layout import VIEWS
from alexnet_deploy.core.bundle.quantization import MAX_LEVEL
from alexnet_deploy.core.bundle.vocabulary import CalibrationMethod
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.export.float16 import HALF_MAX
from alexnet_deploy.export.graph import MEAN, SCALE
from alexnet_deploy.export.int8 import products_of
from alexnet_deploy.export.layers.taps import with_outputs

NUM_BINS = 4096
_NUM_LEVELS = MAX_LEVEL + 1
"""Number of magnitudes of a symmetric int8 value: 0 to 127."""
_PERCENTILE = 0.9999
_BINS_BETWEEN_CANDIDATES = 16


@dataclass(slots=True)
class Histogram:
    """Number of magnitudes in each of NUM_BINS equal bins from 0 to `upper`."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, dtype=np.int64))
    """int64 (NUM_BINS,)."""
    upper: float = 0.0
    largest: float = 0.0
    """The largest magnitude seen."""

    def add(self, values: np.ndarray) -> None:
        """Count the magnitudes of float values of any shape; raises ValueError if one is NaN or infinite."""
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError("a value is NaN or infinite")
        self.largest = max(self.largest, largest)
        if self.upper == 0.0:
            self.upper = largest
        if self.upper == 0.0:
            self.counts[0] += magnitudes.size
            return
        while largest > self.upper:
            # Double the range: merge neighbouring bins and append empty ones for the upper half.
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(NUM_BINS // 2, np.int64)])
            self.upper *= 2.0
        # Three times as fast as np.histogram, which would be the slowest step of a calibration.
        places = np.minimum((magnitudes / np.float32(self.upper) * NUM_BINS).astype(np.int32), NUM_BINS - 1)
        self.counts += np.bincount(places, minlength=NUM_BINS)

    def amax_by(self, method: CalibrationMethod) -> float:
        """Return the magnitude that becomes 127; 1 if every value was 0."""
        if self.largest == 0.0:
            return 1.0
        match method:
            case "minmax":
                return self.largest
            case "percentile":
                place = int(np.searchsorted(np.cumsum(self.counts), _PERCENTILE * self.counts.sum()))
                return min(self.largest, (place + 1) * self._width)
            case "mse":
                return self._range_of_least(self._squared_error)
            case "entropy":
                return self._range_of_least(self._divergence)

    def share_beyond(self, magnitude: float) -> float:
        """Return the share of values, 0..1, in bins beyond this magnitude."""
        place = min(NUM_BINS, int(np.ceil(magnitude / self._width))) if self.upper else NUM_BINS
        return float(self.counts[place:].sum() / max(1, self.counts.sum()))

    @property
    def _width(self) -> float:
        return self.upper / NUM_BINS

    def _range_of_least(self, cost: Callable[[int], float]) -> float:
        last = int(np.flatnonzero(self.counts)[-1]) + 1
        candidates = [*range(min(_NUM_LEVELS, last), last, _BINS_BETWEEN_CANDIDATES), last]
        best: float = min(candidates, key=cost) * self._width
        return min(self.largest, best)

    def _squared_error(self, num_bins: int) -> float:
        """Return the sum of squared errors if the first `num_bins` become 127 levels and larger values are clipped."""
        centers = (np.arange(NUM_BINS) + 0.5) * self._width
        step = num_bins * self._width / MAX_LEVEL
        rounded = np.minimum(np.rint(centers / step), MAX_LEVEL) * step
        return float(np.sum(self.counts * (centers - rounded) ** 2))

    def _divergence(self, num_bins: int) -> float:
        """Return the Kullback-Leibler divergence of the counts from their 128 levels, clipped values in the last bin.

        Source: Migacz 2017, "8-bit inference with TensorRT".
        """
        kept = self.counts[:num_bins].astype(np.float64)
        # Most activations are exact zeros, which every range represents: their count would dominate all others.
        kept[0] = kept[1] if num_bins > 1 else kept[0]
        wanted = kept.copy()
        wanted[-1] += self.counts[num_bins:].sum()
        level = np.arange(num_bins) * _NUM_LEVELS // num_bins
        is_filled = kept > 0
        totals = np.bincount(level, weights=kept, minlength=_NUM_LEVELS)
        filled = np.bincount(level, weights=is_filled, minlength=_NUM_LEVELS)
        found = np.where(is_filled, totals[level] / np.maximum(filled[level], 1), 0.0)
        if not found.sum() > 0:
            return np.inf
        wanted, found = wanted / wanted.sum(), found / found.sum()
        used = wanted > 0
        # A bin with clipped values only has no level; the usual small constant replaces its share.
        return float((wanted[used] * np.log(wanted[used] / np.maximum(found[used], 1e-9))).sum())


def gather(graph: onnx.ModelProto, batches: Iterable[np.ndarray]) -> dict[str, Histogram]:
    """Run images through an FP32 graph; return the input histogram of each convolution and fully connected layer.

    `batches` are uint8 (N, 256, 256, 3). The first layer is not included: see pixel_range. Raises ExportError if a
    value is NaN or infinite.
    """
    inputs = {node.name: node.input[0] for node in products_of(graph.graph) if node.input[0] != VIEWS}
    histograms = {layer: Histogram() for layer in inputs}
    if not inputs:
        return histograms
    session = _tapped(graph, inputs.values())
    for images in batches:
        found: list[np.ndarray] = session.run(list(inputs.values()), {IMAGES: images})
        for layer, values in zip(inputs, found, strict=True):
            try:
                histograms[layer].add(values)
            except ValueError as error:
                raise ExportError(f"{layer}: {error} on calibration images") from error
    return histograms


def refuse_beyond_half(graph: onnx.ModelProto, images: np.ndarray) -> None:
    """Raise ExportError for the first layer of an FP32 graph whose outputs exceed float16.

    CPU engines compute float16 graphs in float32, so they do not show this. `images` are uint8 (N, 256, 256, 3).
    """
    layers = [node.name for node in graph.graph.node if node.op_type in ("Conv", "Gemm", "LRN")]
    for layer, values in zip(layers, _run(graph, layers, images), strict=True):
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= HALF_MAX:
            raise ExportError(
                f"{layer}: outputs reach {largest:.3g} on the golden images, float16 holds at most {HALF_MAX:g}"
            )


def _run(graph: onnx.ModelProto, tensors: list[str], images: np.ndarray) -> list[np.ndarray]:
    found: list[np.ndarray] = _tapped(graph, tensors).run(tensors, {IMAGES: images})
    return found


def _tapped(graph: onnx.ModelProto, tensors: Iterable[str]) -> onnxruntime.InferenceSession:
    """Open a copy of the graph that also returns these internal float tensors."""
    tapped = with_outputs(graph, tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])


def pixel_range(graph: onnx.GraphProto) -> float:
    """Return the largest magnitude of a preprocessed pixel, computed from mean and scale so that none is clipped."""
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in (MEAN, SCALE)}
    mean, scale = (numpy_helper.to_array(constants[name]) for name in (MEAN, SCALE))
    return float(max(np.abs((end - mean) * scale).max() for end in (np.float32(0), np.float32(255))))


def ranges_for(
    graph: onnx.ModelProto, histograms: Mapping[str, Histogram], method: CalibrationMethod
) -> dict[str, float]:
    """Return the range of each convolution and fully connected layer, by name, in order."""
    return {
        node.name: pixel_range(graph.graph) if node.input[0] == VIEWS else histograms[node.name].amax_by(method)
        for node in products_of(graph.graph)
    }
