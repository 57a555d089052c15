"""The normalisations of the torch network against float64 NumPy, and a comparison of the frameworks' conventions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.core.model.architecture import LocalNorm, SpatialNorm
from alexnet_deploy.core.model.network import LocalNormModule, SpatialNormModule


def lrn(a: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """LRN of (N, C, H, W) in float64, term by term: alpha divided by the window."""
    num_channels = a.shape[1]
    squares = a.astype(np.float64) ** 2
    out = np.empty_like(squares)
    for channel in range(num_channels):
        low, high = max(0, channel - size // 2), min(num_channels, channel + size // 2 + 1)
        out[:, channel] = a[:, channel] / (k + alpha / size * squares[:, low:high].sum(axis=1)) ** beta
    return out


def tensorflow_lrn(a: np.ndarray, depth_radius: int, bias: float, alpha: float, beta: float) -> np.ndarray:
    """tf.nn.local_response_normalization of (N, H, W, C): sqr_sum is not divided by the window."""
    padded = np.pad(a.astype(np.float64) ** 2, [(0, 0)] * 3 + [(depth_radius, depth_radius)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * depth_radius + 1, axis=3)
    return a / (bias + alpha * windows.sum(axis=-1)) ** beta


def caffe_lrn(a: np.ndarray, local_size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """Caffe's LRNLayer, ACROSS_CHANNELS, as in lrn_layer.cpp: a running sum that adds the head and drops the tail."""
    alpha_over_size = alpha / local_size
    before = (local_size - 1) // 2
    padded = np.pad(a.astype(np.float64) ** 2, [(0, 0), (before, before), (0, 0), (0, 0)])
    scale = np.full(a.shape, k, dtype=np.float64)
    scale[:, 0] += alpha_over_size * padded[:, :local_size].sum(axis=1)
    for channel in range(1, a.shape[1]):
        scale[:, channel] = scale[:, channel - 1] + alpha_over_size * (
            padded[:, channel + local_size - 1] - padded[:, channel - 1]
        )
    return a * scale**-beta


def activations(shape: tuple[int, ...], scale: float = 60.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def run(layer: LocalNorm, a: np.ndarray) -> np.ndarray:
    return LocalNormModule(layer)(torch.from_numpy(a)).numpy().astype(np.float64)


@settings(max_examples=60)
@given(
    size=st.sampled_from([1, 3, 5, 7, 15]),
    channels=st.integers(1, 20),
    alpha=st.sampled_from([1e-4, 5e-4, 1e-1]),
    k=st.sampled_from([1.0, 2.0]),
    scale=st.sampled_from([0.1, 10.0, 1000.0]),
)
def test_lrn_is_the_formula_in_float64(size: int, channels: int, alpha: float, k: float, scale: float) -> None:
    a = activations((2, channels, 3, 2), scale)
    layer = LocalNorm(name="norm", size=size, alpha=alpha, beta=0.75, k=k)
    np.testing.assert_allclose(run(layer, a), lrn(a, size, alpha, 0.75, k), rtol=2e-6)


def test_lrn_with_alpha_times_five_is_another_function() -> None:
    a = activations((1, 8, 2, 2))
    layer = LocalNorm(name="norm", size=5, alpha=5e-4, beta=0.75, k=2.0)
    assert np.abs(run(layer, a) / lrn(a, 5, 1e-4, 0.75, 2.0) - 1).max() > 0.1


def test_lrn_in_groups_stays_within_each_column() -> None:
    a = activations((2, 12, 3, 3))
    layer = LocalNorm(name="norm", size=5, alpha=1e-2, beta=0.75, k=2.0, groups=2)
    columns = [lrn(half, 5, 1e-2, 0.75, 2.0) for half in np.split(a, 2, axis=1)]
    np.testing.assert_allclose(run(layer, a), np.concatenate(columns, axis=1), rtol=2e-6)
    whole = lrn(a, 5, 1e-2, 0.75, 2.0)
    differs = np.abs(run(layer, a) / whole - 1).max(axis=(0, 2, 3)) > 1e-4
    assert differs.nonzero()[0].tolist() == [4, 5, 6, 7]


def test_tensorflow_s_formula_agrees_after_conversion() -> None:
    a = activations((2, 10, 3, 3))
    # TensorFlow's tutorial AlexNet: radius 2, bias 1, alpha 0.001 / 9, beta 0.75; our alpha is that times the window.
    theirs = tensorflow_lrn(a.transpose(0, 2, 3, 1), 2, 1.0, 0.001 / 9, 0.75).transpose(0, 3, 1, 2)
    layer = LocalNorm(name="norm", size=5, alpha=5 * 0.001 / 9, beta=0.75, k=1.0)
    np.testing.assert_allclose(run(layer, a), theirs, rtol=2e-6)


def test_caffe_s_formula_agrees_unconverted() -> None:
    a = activations((2, 10, 3, 3))
    layer = LocalNorm(name="norm", size=5, alpha=1e-4, beta=0.75, k=1.0)
    np.testing.assert_allclose(run(layer, a), caffe_lrn(a, 5, 1e-4, 0.75, 1.0), rtol=2e-6)


def test_the_paper_s_formula_agrees_with_alpha_times_five() -> None:
    a = activations((1, 10, 2, 2))
    squares = np.pad(a.astype(np.float64) ** 2, [(0, 0), (2, 2), (0, 0), (0, 0)])
    sums = np.lib.stride_tricks.sliding_window_view(squares, 5, axis=1).sum(axis=-1)
    layer = LocalNorm(name="norm", size=5, alpha=5e-4, beta=0.75, k=2.0)
    np.testing.assert_allclose(run(layer, a), a / (2.0 + 1e-4 * sums) ** 0.75, rtol=2e-6)


@pytest.mark.parametrize("side", [5, 6, 13])
def test_spatial_norm_counts_the_zeros_outside(side: int) -> None:
    a = activations((2, 3, side, side))
    squares = np.pad(a.astype(np.float64) ** 2, [(0, 0), (0, 0), (2, 2), (2, 2)])
    windows = np.lib.stride_tricks.sliding_window_view(squares, (5, 5), axis=(2, 3))
    expected = a * (1.0 + 1e-3 * windows.sum(axis=(-1, -2)) / 25) ** -0.75
    layer = SpatialNorm(name="norm", size=5, alpha=1e-3, beta=0.75, k=1.0)
    actual = SpatialNormModule(layer)(torch.from_numpy(a)).numpy().astype(np.float64)
    np.testing.assert_allclose(actual, expected, rtol=2e-6)
