import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from networks import narrowed, separating_weights, with_tensor
from onnx import TensorProto, helper

from alexnet_deploy.core.bundle.quantization import MAX_LEVEL
from alexnet_deploy.core.bundle.vocabulary import CALIBRATION_METHODS, CalibrationMethod
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING
from alexnet_deploy.core.model.network import preprocess
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.calibration import NUM_BINS, Histogram, gather, pixel_range, ranges_for
from alexnet_deploy.export.graph import build_graph
from alexnet_deploy.export.int8 import products_of

IMAGES = golden_images()

MAGNITUDES = st.floats(2.0**-100, 2.0**20, width=32)
VALUES = arrays.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(st.just(0.0), MAGNITUDES, MAGNITUDES.map(lambda magnitude: -magnitude)),
)


def counted(*parts: np.ndarray) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part)
    return found


def activations(seed: int = 0, size: int = 200_000, farthest: float = 40.0) -> np.ndarray:
    """Values like the output of a ReLU: most are 0, large ones are rare, and one is an outlier."""
    values = np.maximum(np.random.default_rng(seed).laplace(0.0, 1.0, size) - 0.5, 0.0).astype(np.float32)
    values[0] = farthest
    return values


# Counting


@given(VALUES, st.integers(0, 60))
def test_parts_add_up_to_the_whole(values: np.ndarray, place: int) -> None:
    """If the largest value comes first, the range and every bin are the same."""
    sorted_values = values[np.argsort(-np.abs(values), kind="stable")]
    whole = counted(sorted_values)
    parts = counted(sorted_values[: max(1, place)], sorted_values[max(1, place) :])
    assert (parts.upper, parts.largest) == (whole.upper, whole.largest)
    np.testing.assert_array_equal(parts.counts, whole.counts)


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_no_number_is_lost_however_the_range_grows(parts: list[np.ndarray]) -> None:
    found = counted(*parts)
    everything = np.concatenate(parts)
    assert found.counts.sum() == everything.size
    assert found.counts.dtype == np.int64
    assert found.largest == np.abs(everything).max()
    assert found.upper >= found.largest
    # Each value is in its bin, edges included; doubling merges neighbouring bins and moves no value.
    if found.upper:
        places = np.minimum((np.abs(everything.astype(np.float64)) / found.upper * NUM_BINS).astype(int), NUM_BINS - 1)
        cumulated = np.cumsum(np.bincount(places, minlength=NUM_BINS))
        for shift, compare in ((1, np.less_equal), (-1, np.greater_equal)):
            moved = np.roll(cumulated, -shift)
            moved[-1 if shift > 0 else 0] = everything.size if shift > 0 else 0
            assert compare(np.cumsum(found.counts), moved).all()


def test_range_doubles_and_neighbours_are_counted_together() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 10_000).astype(np.float32)
    values[0] = 1.0
    before = counted(values).counts
    grown = counted(values, np.array([3.0], np.float32))
    assert grown.upper == 4.0
    np.testing.assert_array_equal(grown.counts[: NUM_BINS // 4], before.reshape(-1, 4).sum(axis=1))
    assert grown.counts[NUM_BINS // 4 :].sum() == 1
    assert grown.counts[NUM_BINS * 3 // 4] == 1


@given(VALUES, st.sampled_from(CALIBRATION_METHODS))
def test_range_holds_numbers_and_is_no_larger_than_the_largest(values: np.ndarray, method: CalibrationMethod) -> None:
    found = counted(values)
    largest = float(np.abs(values).max())
    assert 0 < found.amax_by(method) <= (largest or 1.0)


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_nothing_but_zeros_has_a_range_that_keeps_them(method: CalibrationMethod) -> None:
    found = counted(np.zeros(100, np.float32), np.zeros((3, 4), np.float32))
    assert found.amax_by(method) == 1.0
    assert found.counts[0] == 112
    assert found.share_beyond(0.5) == 0.0
    # Zeros before the first nonzero value are counted too.
    found.add(np.array([2.0], np.float32))
    assert found.counts.sum() == 113


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_number_that_is_none_is_refused(value: float) -> None:
    found = counted(np.ones(4, np.float32))
    with pytest.raises(ValueError, match="a value is NaN or infinite"):
        found.add(np.array([1.0, value, 2.0], np.float32))
    assert found.counts.sum() == 4, "and what was counted stands"


def test_sign_and_shape_do_not_matter() -> None:
    values = activations().reshape(100, -1)
    np.testing.assert_array_equal(counted(values).counts, counted(-values.T.ravel()).counts)


@given(VALUES, st.floats(0.0, 2.0))
def test_share_beyond_is_that_of_the_numbers_up_to_a_bin(values: np.ndarray, part: float) -> None:
    found = counted(values)
    magnitude = part * found.largest
    width = found.upper / NUM_BINS
    magnitudes = np.abs(values.astype(np.float64))
    least, most = (magnitudes > magnitude + 2 * width).mean(), (magnitudes >= magnitude - 2 * width).mean()
    assert least <= found.share_beyond(magnitude) <= (most if found.largest else 0.0)


# The methods, each against plain NumPy on the values themselves


def test_minmax_is_the_largest() -> None:
    values = activations()
    assert counted(values[1000:], values[:1000]).amax_by("minmax") == np.abs(values).max()


def test_percentile_cuts_about_its_share() -> None:
    values = np.random.default_rng(1).exponential(1.0, 1_000_000).astype(np.float32)
    found = counted(values)
    chosen = found.amax_by("percentile")
    width = found.upper / NUM_BINS
    assert abs(chosen - np.quantile(values, 0.9999)) <= 2 * width
    assert (values > chosen).mean() <= 1.05e-4
    assert (values > chosen - 4 * width).mean() >= 0.95e-4


def rounded(values: np.ndarray, largest: float) -> np.ndarray:
    step = largest / MAX_LEVEL
    return np.clip(np.rint(values / step), -MAX_LEVEL, MAX_LEVEL) * step


@pytest.mark.parametrize("farthest", [25.0, 40.0, 60.0, 90.0])
def test_mse_is_the_range_of_least_squared_error(farthest: float) -> None:
    values = activations(farthest=farthest).astype(np.float64)
    found = counted(values.astype(np.float32))
    chosen = found.amax_by("mse")

    def error(largest: float) -> float:
        return float(((rounded(values, largest) - values) ** 2).sum())

    candidates = found.largest * np.arange(1, 257) / 256
    assert error(chosen) <= 1.001 * min(error(largest) for largest in candidates)
    assert error(chosen) < 0.95 * error(found.largest), "here something is to be gained"
    assert error(chosen) < 0.95 * error(found.amax_by("percentile"))


def divergence(counts: np.ndarray, num_bins: int) -> float:
    """Migacz's divergence, bin by bin, with the bin of zeros set to its neighbour."""
    kept = [float(count) for count in counts[:num_bins]]
    kept[0] = kept[1]
    wanted = [*kept[:-1], kept[-1] + float(counts[num_bins:].sum())]
    found = [0.0] * num_bins
    for level in range(128):
        members = [place for place in range(num_bins) if place * 128 // num_bins == level]
        filled = [place for place in members if kept[place] > 0]
        for place in filled:
            found[place] = sum(kept[other] for other in members) / len(filled)
    total, other = sum(wanted), sum(found)
    return sum(
        p / total * math.log((p / total) / max(q / other, 1e-9)) for p, q in zip(wanted, found, strict=True) if p > 0
    )


def test_entropy_is_the_range_of_least_divergence() -> None:
    found = counted(activations())
    chosen = found.amax_by("entropy")
    width = found.upper / NUM_BINS
    costs = {num_bins: divergence(found.counts, num_bins) for num_bins in range(128, NUM_BINS + 1, 16 * 8)}
    least = min(costs, key=lambda num_bins: costs[num_bins])
    assert divergence(found.counts, round(chosen / width)) <= 1.0001 * costs[least]
    assert chosen < 0.5 * found.largest, "the far one is cut"


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
@given(exponent=st.integers(-20, 20))
@settings(max_examples=10)
def test_range_grows_with_the_numbers(method: CalibrationMethod, exponent: int) -> None:
    values = activations(size=5000)
    scale = np.float32(2.0**exponent)
    assert counted(values * scale).amax_by(method) == counted(values).amax_by(method) * scale


# Images through a graph


def graph_of(weights: Weights) -> onnx.ModelProto:
    return build_graph(weights, views_by_name("center", weights.architecture.input_size))


def test_what_is_counted_is_what_goes_into_each_layer(weights: Weights) -> None:
    graph = graph_of(weights)
    found = gather(graph, [IMAGES[:3], IMAGES[3:]])
    inputs = {node.name: node.input[0] for node in products_of(graph.graph)}
    first = inputs.pop("conv1")
    assert first == "views"
    assert list(found) == list(inputs) == ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs.values())
    values = onnxruntime.InferenceSession(graph.SerializeToString()).run(list(inputs.values()), {"images": IMAGES})
    for histogram, whole in zip(found.values(), values, strict=True):
        assert histogram.counts.sum() == whole.size
        assert histogram.largest == pytest.approx(float(np.abs(whole).max()), rel=1e-5)
        for magnitude in (0.1, 0.5):
            share = float((np.abs(whole) > magnitude * histogram.largest).mean())
            assert histogram.share_beyond(magnitude * histogram.largest) == pytest.approx(share, rel=0.02, abs=1e-3)


def test_graph_is_left_as_it_was(weights: Weights) -> None:
    graph = graph_of(weights)
    before = graph.SerializeToString(deterministic=True)
    gather(graph, [IMAGES[:1]])
    assert graph.SerializeToString(deterministic=True) == before


def test_numbers_that_overflow_are_refused_with_their_layer(weights: Weights) -> None:
    bias = weights.tensors["conv3.bias"].copy()
    bias[0] = 3e38
    loud = with_tensor(weights, "conv3.bias", bias)
    loud = with_tensor(loud, "conv4.weight", np.abs(loud.tensors["conv4.weight"]) * np.float32(10))
    with pytest.raises(ExportError, match="conv5: a value is NaN or infinite on calibration images"):
        gather(graph_of(loud), [IMAGES[:2]])


def test_no_image_is_kept(weights: Weights) -> None:
    """The next batch is requested after the previous one is released, and the memory left is that of one batch."""

    def batches() -> Iterator[np.ndarray]:
        for _ in range(6):
            yield IMAGES[:1]

    six, one = gather(graph_of(weights), batches()), gather(graph_of(weights), [IMAGES[:1]])
    for layer, histogram in six.items():
        assert histogram.counts.nbytes == one[layer].counts.nbytes == 8 * NUM_BINS
        np.testing.assert_array_equal(histogram.counts, 6 * one[layer].counts)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny"])
def test_first_layer_s_range_is_that_of_every_image_there_can_be(name: str) -> None:
    import torch

    weights = replace(separating_weights(narrowed(ARCHITECTURES["caffe"])), preprocessing=PUBLISHED_PREPROCESSING[name])
    ends = torch.tensor([[0, 0, 0], [255, 255, 255]], dtype=torch.uint8).reshape(2, 1, 1, 3)
    reached = float(preprocess(ends, weights.preprocessing).abs().max())
    assert pixel_range(graph_of(weights).graph) == pytest.approx(reached, rel=1e-6)


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_ranges_are_of_every_layer_in_order(method: CalibrationMethod) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["caffenet"]))
    graph = graph_of(weights)
    found = gather(graph, [IMAGES])
    ranges = ranges_for(graph, found, method)
    assert list(ranges) == ["conv1", *found]
    assert ranges.pop("conv1") == pixel_range(graph.graph)
    assert ranges == {layer: histogram.amax_by(method) for layer, histogram in found.items()}
