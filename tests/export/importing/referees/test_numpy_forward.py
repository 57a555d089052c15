"""The forward pass in NumPy against torch's own functions, one layer at a time."""

import numpy as np
import pytest
import torch
from sources import drawn, source
from torch.nn import functional

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.export.importing.referees.numpy_forward import answers
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Padding,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    SpatialNormalise,
    Unroll,
)

CHANNELS = 6


def assert_same(layer: SourceLayer, values: np.ndarray, expected: torch.Tensor, **tensors: np.ndarray) -> None:
    """The probabilities of each image, which all values of the layer's output take part in."""
    found = answers(source(layer, **tensors), values)
    wanted = functional.softmax(expected.flatten(1).double(), dim=1).numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("layout", ["OIHW", "HWIO"])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding"), [(1, (0, 0, 0, 0)), (2, (1, 2, 0, 3)), (3, (0, 1, 2, 0))])
def test_a_convolution(layout: str, groups: int, stride: int, padding: Padding) -> None:
    values, weight, bias = drawn(2, CHANNELS, 9, 11), drawn(CHANNELS, CHANNELS // groups, 3, 2) / 5, drawn(CHANNELS)
    top, left, bottom, right = padding
    padded = functional.pad(torch.from_numpy(values), (left, right, top, bottom))
    expected = functional.conv2d(padded, torch.from_numpy(weight), torch.from_numpy(bias), stride, groups=groups)
    stored = weight if layout == "OIHW" else weight.transpose(2, 3, 1, 0)
    layer = Convolve(
        name="c",
        weight="w",
        bias="b",
        layout=layout,  # type: ignore[arg-type]
        stride=stride,
        padding=padding,
        groups=groups,
    )
    assert_same(layer, values, expected, w=stored, b=bias)
    bare = Convolve(name="c", weight="w", bias=None, layout="OIHW")
    few = values[:, : CHANNELS // groups]
    assert_same(bare, few, functional.conv2d(torch.from_numpy(few), torch.from_numpy(weight)), w=weight)


@pytest.mark.parametrize("layout", ["OI", "IO"])
def test_a_fully_connected_layer(layout: str) -> None:
    values, weight, bias = drawn(3, 2, 2, 3), drawn(4, 12), drawn(4)
    stored = weight if layout == "OI" else weight.T
    product = functional.linear(torch.from_numpy(values).flatten(1), torch.from_numpy(weight))
    with_bias = Connect(name="f", weight="w", bias="b", layout=layout)  # type: ignore[arg-type]
    assert_same(with_bias, values, product + torch.from_numpy(bias), w=stored, b=bias)
    bare = Connect(name="f", weight="w", bias=None, layout=layout)  # type: ignore[arg-type]
    assert_same(bare, values, product, w=stored)


def test_functions_of_single_values() -> None:
    values = drawn(2, 3, 4, 4)
    assert_same(Activate(name="a", function="relu"), values, torch.relu(torch.from_numpy(values)))
    assert_same(Activate(name="a", function="tanh"), values, torch.tanh(torch.from_numpy(values)))
    for layer in (Drop(name="d"), Softmax(name="s"), Unroll(name="u", order="CHW")):
        assert_same(layer, values, torch.from_numpy(values))
    moved = torch.from_numpy(values).permute(0, 2, 3, 1)
    assert_same(Unroll(name="u", order="HWC"), values, moved)
    assert_same(Unroll(name="u", order="HWC"), values[:, :, 0, 0], torch.from_numpy(values[:, :, 0, 0].copy()))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("groups", [1, 2])
def test_normalisation_across_channels(size: int, groups: int) -> None:
    values = torch.from_numpy(3 * drawn(2, 8, 3, 4))
    # torch's window of an even size begins one channel earlier.
    columns = [part.flip(1) if size % 2 == 0 else part for part in values.chunk(groups, dim=1)]
    normed = [functional.local_response_norm(part, size, alpha=0.5, beta=0.75, k=2.0) for part in columns]
    expected = torch.cat([part.flip(1) if size % 2 == 0 else part for part in normed], dim=1)
    for is_divided, alpha in ((True, 0.5), (False, 0.5 / size)):
        layer = Normalise(
            name="n", size=size, alpha=alpha, alpha_is_divided=is_divided, beta=0.75, k=2.0, groups=groups
        )
        assert_same(layer, values.numpy(), expected)


@pytest.mark.parametrize("size", [3, 5])
def test_normalisation_within_a_channel(size: int) -> None:
    values = 3 * drawn(2, 3, 6, 7)
    squares = functional.avg_pool2d(torch.from_numpy(values) ** 2, size, 1, size // 2)
    layer = SpatialNormalise(name="n", size=size, alpha=0.5, beta=0.75, k=2.0)
    assert_same(layer, values, torch.from_numpy(values) * (2.0 + 0.5 * squares) ** -0.75)


@pytest.mark.parametrize("shape", [(2, CHANNELS, 3, 4), (2, CHANNELS)])
@pytest.mark.parametrize("factor", [None, 4.0, 0.0])
def test_batch_normalisation(shape: tuple[int, ...], factor: float | None) -> None:
    values = drawn(*shape)
    mean, scale, shift = (drawn(CHANNELS, seed=seed) for seed in (1, 2, 3))
    variance = np.abs(drawn(CHANNELS, seed=4)) + 0.5
    divisor = factor if factor else 1.0
    tensors = {"m": mean * divisor, "v": variance * divisor, "s": scale, "t": shift, "f": np.array([factor or 0.0])}
    if factor == 0.0:
        # As in Caffe: statistics without samples are 0.
        mean, variance = mean * 0, variance * 0
    stored = {name: value.astype(np.float32) for name, value in tensors.items()}
    of_torch = [torch.from_numpy(one.astype(np.float32)) for one in (mean, variance, scale, shift)]
    expected = functional.batch_norm(torch.from_numpy(values), *of_torch, eps=0.25)
    name = None if factor is None else "f"
    whole = Scale(name="n", mean="m", variance="v", scale="s", shift="t", epsilon=0.25, factor=name)
    assert_same(whole, values, expected, **stored)
    bare = Scale(name="n", mean="m", variance="v", scale=None, shift=None, epsilon=0.25, factor=name)
    assert_same(bare, values, functional.batch_norm(torch.from_numpy(values), *of_torch[:2], eps=0.25), **stored)
    alone = Scale(name="n", mean=None, variance=None, scale="s", shift="t", epsilon=0.0)
    columns = [one.reshape(-1, *[1] * (values.ndim - 2)) for one in (scale, shift)]
    assert_same(alone, values, torch.from_numpy(values * columns[0] + columns[1]), **stored)


@pytest.mark.parametrize("round_up", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2), (2, 3), (3, 4)])
@pytest.mark.parametrize("side", [7, 8, 9])
def test_pooling(side: int, kernel: int, stride: int, pad: int, round_up: bool) -> None:
    values = drawn(2, 3, side, side + 1) + 1
    given = {"kernel": kernel, "stride": stride, "padding": (pad,) * 4, "round_up": round_up}
    expected = functional.max_pool2d(torch.from_numpy(values), kernel, stride, pad, ceil_mode=round_up)
    assert_same(Pool(name="p", function="max", **given), values, expected)  # type: ignore[arg-type]
    for counts in (False, True):
        layer = Pool(name="p", function="average", counts_padding=counts, **given)  # type: ignore[arg-type]
        means = functional.avg_pool2d(torch.from_numpy(values), kernel, stride, pad, round_up, counts)
        assert_same(layer, values, means)


def test_pooling_with_uneven_padding() -> None:
    values = drawn(2, 3, 7, 8)
    padding = (1, 0, 2, 1)
    infinite = functional.pad(torch.from_numpy(values), (0, 1, 1, 2), value=-torch.inf)
    layer = Pool(name="p", function="max", kernel=3, stride=2, padding=padding)
    assert_same(layer, values, functional.max_pool2d(infinite, 3, 2))
    zeros = functional.pad(torch.from_numpy(values), (0, 1, 1, 2))
    layer = Pool(name="p", function="average", kernel=3, stride=2, padding=padding, counts_padding=True)
    assert_same(layer, values, functional.avg_pool2d(zeros, 3, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_adaptive_pooling(size: int) -> None:
    values = drawn(2, 3, 7, 8)
    expected = functional.adaptive_avg_pool2d(torch.from_numpy(values), size)
    assert_same(AdaptivePool(name="p", size=size), values, expected)


def test_layers_follow_one_another() -> None:
    values, weight = drawn(2, 3, 4, 4), drawn(5, 3 * 4 * 4)
    chain = source(
        Activate(name="a", function="relu"),
        Unroll(name="u", order="CHW"),
        Connect(name="f", weight="w", bias=None, layout="OI"),
        Softmax(name="s"),
        w=weight,
    )
    expected = functional.softmax(torch.relu(torch.from_numpy(values)).flatten(1) @ torch.from_numpy(weight).T, dim=1)
    found = answers(chain, values)
    assert (found.shape, found.dtype) == ((2, 5), np.float64)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_a_layer_that_does_not_fit_is_named() -> None:
    words = "^x: f: does not fit the layer before it: "
    layer = Connect(name="f", weight="w", bias=None, layout="OI")
    for tensors in ({"w": drawn(4, 11)}, {}):
        with pytest.raises(WeightsError, match=words):
            answers(source(layer, **tensors), drawn(1, 3, 2, 2))
