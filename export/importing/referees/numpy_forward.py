"""The referee of files that hold their layers: a forward pass in NumPy over the source's own layers and tensors.

It uses neither our table nor torch. Float32, with sums in the order of BLAS.

N images, C channels, H height, W width, I input channels of one group, O output channels, P output places, K classes.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    Scale,
    Softmax,
    Source,
    SourceLayer,
    SpatialNormalise,
    Unroll,
)


def answers(source: Source, inputs: np.ndarray) -> np.ndarray:
    """Return the source's own probabilities, float64 (N, K), for its input, float32 (N, 3, S, S).

    Raises WeightsError for a layer that does not fit the one before it.
    """
    assert source.layers is not None, "the file holds its layers"
    return np.concatenate([_one(source, image[np.newaxis]) for image in inputs])


def _one(source: Source, image: np.ndarray) -> np.ndarray:
    values = image
    for layer in source.layers or ():
        try:
            values = _step(layer, values, source.tensors)
        except (ValueError, KeyError) as error:
            raise WeightsError(f"{source.path}: {layer.name}: does not fit the layer before it: {error}") from error
    logits_NK = values.reshape(len(values), -1).astype(np.float64)
    exponents = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


def _step(layer: SourceLayer, values: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    match layer:
        case Convolve():
            return _convolve(layer, values, tensors)
        case Connect():
            weight = tensors[layer.weight]
            sums: np.ndarray = values.reshape(len(values), -1) @ (weight.T if layer.layout == "OI" else weight)
            return sums if layer.bias is None else sums + tensors[layer.bias]
        case Activate():
            activated: np.ndarray = np.maximum(values, 0) if layer.function == "relu" else np.tanh(values)
            return activated
        case Normalise():
            return _normalise(layer, values)
        case SpatialNormalise():
            return _normalise_in_space(layer, values)
        case Scale():
            return _scale(layer, values, tensors)
        case Pool():
            return _pool(layer, values)
        case AdaptivePool():
            return _adaptive_pool(layer, values)
        case Unroll():
            in_order = values.transpose(0, 2, 3, 1) if layer.order == "HWC" and values.ndim == 4 else values
            return in_order.reshape(len(values), -1)
        case Drop() | Softmax():
            return values


def _convolve(layer: Convolve, values: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    weight = tensors[layer.weight]
    weight_OIHW = weight if layer.layout == "OIHW" else weight.transpose(3, 2, 0, 1)
    num_out, channels, height, width = weight_OIHW.shape
    top, left, bottom, right = layer.padding
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))[:, :, :: layer.stride, :: layer.stride]
    num_images, _, rows, columns = windows.shape[:4]
    parts = []
    for group in range(layer.groups):
        mine = windows[:, group * channels : (group + 1) * channels]
        patches = mine.transpose(0, 2, 3, 1, 4, 5).reshape(num_images * rows * columns, -1)
        filters = weight_OIHW[group * num_out // layer.groups : (group + 1) * num_out // layer.groups]
        sums_PO = patches @ filters.reshape(len(filters), -1).T
        parts.append(sums_PO.reshape(num_images, rows, columns, -1).transpose(0, 3, 1, 2))
    sums = np.concatenate(parts, axis=1)
    return sums if layer.bias is None else sums + tensors[layer.bias][:, np.newaxis, np.newaxis]


def _normalise(layer: Normalise, values: np.ndarray) -> np.ndarray:
    alpha = layer.alpha / layer.size if layer.alpha_is_divided else layer.alpha
    parts = []
    for group in np.split(values, layer.groups, axis=1):
        before = (layer.size - 1) // 2
        squares = np.pad(group**2, ((0, 0), (before, layer.size - 1 - before), (0, 0), (0, 0)))
        sums = sliding_window_view(squares, layer.size, axis=1).sum(axis=-1)
        parts.append(group / (layer.k + alpha * sums) ** layer.beta)
    return np.concatenate(parts, axis=1).astype(np.float32)


def _normalise_in_space(layer: SpatialNormalise, values: np.ndarray) -> np.ndarray:
    before = layer.size // 2
    margins = (before, layer.size - 1 - before)
    squares = np.pad(values**2, ((0, 0), (0, 0), margins, margins))
    means = sliding_window_view(squares, (layer.size, layer.size), axis=(2, 3)).mean(axis=(-2, -1))
    normed: np.ndarray = (values * (layer.k + layer.alpha * means) ** -layer.beta).astype(np.float32)
    return normed


def _scale(layer: Scale, values: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    factor = 1.0 if layer.factor is None else float(tensors[layer.factor][0])
    divisor = 1 / factor if factor else 0.0

    def column(name: str) -> np.ndarray:
        return tensors[name].reshape(-1, *[1] * (values.ndim - 2))

    scaled = values
    if layer.mean is not None and layer.variance is not None:
        scaled = (values - column(layer.mean) * divisor) / np.sqrt(column(layer.variance) * divisor + layer.epsilon)
    if layer.scale is not None:
        scaled = scaled * column(layer.scale)
    return (scaled if layer.shift is None else scaled + column(layer.shift)).astype(np.float32)


def _pool(layer: Pool, values: np.ndarray) -> np.ndarray:
    top, left, bottom, right = layer.padding
    fill = -np.inf if layer.function == "max" else 0.0
    ends = []
    for size, before, after in ((values.shape[2], top, bottom), (values.shape[3], left, right)):
        steps = (size + before + after - layer.kernel) / layer.stride
        count = (math.ceil(steps) if layer.round_up else math.floor(steps)) + 1
        # Caffe drops a last window that would begin beyond the image and its padding before.
        if layer.round_up and (count - 1) * layer.stride >= size + before:
            count -= 1
        ends.append((count - 1) * layer.stride + layer.kernel - size - before)
    edges = ((0, 0), (0, 0), (top, max(ends[0], 0)), (left, max(ends[1], 0)))
    padded = np.pad(values, edges, constant_values=fill)
    if layer.function == "max":
        largest: np.ndarray = _windows(padded, layer).max(axis=(-2, -1))
        return largest
    # Windows may reach beyond the padding if Caffe rounds up: values there never count.
    margins = ((0, 0), (0, 0), (top, bottom), (left, right))
    counted = np.pad(np.ones_like(values), margins, constant_values=float(layer.counts_padding))
    beyond = [(0, max(padded.shape[axis] - counted.shape[axis], 0)) for axis in (2, 3)]
    counted = np.pad(counted, ((0, 0), (0, 0), *beyond))[:, :, : padded.shape[2], : padded.shape[3]]
    means: np.ndarray = _windows(padded, layer).sum(axis=(-2, -1)) / _windows(counted, layer).sum(axis=(-2, -1))
    return means


def _windows(values: np.ndarray, layer: Pool) -> np.ndarray:
    windows = sliding_window_view(values, (layer.kernel, layer.kernel), axis=(2, 3))
    return windows[:, :, :: layer.stride, :: layer.stride]


def _adaptive_pool(layer: AdaptivePool, values: np.ndarray) -> np.ndarray:
    _, _, height, width = values.shape
    rows = [(place * height // layer.size, -(-(place + 1) * height // layer.size)) for place in range(layer.size)]
    columns = [(place * width // layer.size, -(-(place + 1) * width // layer.size)) for place in range(layer.size)]
    cells = [[values[:, :, a:b, c:d].mean(axis=(2, 3)) for c, d in columns] for a, b in rows]
    return np.stack([np.stack(row, axis=-1) for row in cells], axis=-2)
