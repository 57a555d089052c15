"""Pooling and tanh: shapes, texts and the torch modules, held against torch's own definitions."""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Tanh,
    adaptive_window,
)
from alexnet_deploy.core.model.network import Network, module_of

HEAD = (Flatten(name="flatten"), Linear(name="fc", out_features=2))


def pixels(size: int) -> torch.Tensor:
    # All negative: zeros in the padding would be the maximum.
    return -torch.rand((2, 3, size, size), generator=torch.Generator().manual_seed(size)) - 0.5


@pytest.mark.parametrize("size", [26, 54, 110])
def test_padding_below_and_to_the_right_is_caffe_s_rounding_up(size: int) -> None:
    padded = module_of(MaxPool(name="pool", padding=(0, 0, 1, 1)), (3, size, size))
    rounded_up = nn.MaxPool2d(3, 2, ceil_mode=True)
    assert torch.equal(padded(pixels(size)), rounded_up(pixels(size)))


@pytest.mark.parametrize("size", [26, 54, 110])
def test_an_average_pool_with_padding_below_is_caffe_s_rounding_up(size: int) -> None:
    padded = module_of(AveragePool(name="pool", kernel=3, stride=2, padding=(0, 0, 1, 1)), (3, size, size))
    rounded_up = nn.AvgPool2d(3, 2, ceil_mode=True)
    torch.testing.assert_close(padded(pixels(size)), rounded_up(pixels(size)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("counts", [False, True])
def test_padding_counts_in_an_average_or_does_not(counts: bool) -> None:
    layer = AveragePool(name="pool", kernel=3, stride=2, padding=(1, 1, 1, 1), counts_padding=counts)
    same = nn.AvgPool2d(3, 2, padding=1, count_include_pad=counts)
    torch.testing.assert_close(module_of(layer, (3, 55, 55))(pixels(55)), same(pixels(55)), rtol=0, atol=1e-6)


def test_padding_all_around_is_torch_s() -> None:
    padded = module_of(MaxPool(name="pool", padding=(1, 1, 1, 1)), (3, 55, 55))
    assert torch.equal(padded(pixels(55)), nn.MaxPool2d(3, 2, padding=1)(pixels(55)))


@pytest.mark.parametrize("size", [*range(6, 19), 24, 25, 31, 55])
def test_an_adaptive_pool_is_the_average_pool_of_its_window_or_is_refused(size: int) -> None:
    adaptive = nn.AdaptiveAvgPool2d(6)
    layer = AdaptiveAveragePool(name="pool", size=6)
    edges = [(index * size // 6, -(-(index + 1) * size // 6)) for index in range(6)]
    if len({end - start for start, end in edges}) == len(set(np.diff([start for start, _ in edges]))) == 1:
        window = adaptive_window(layer, (3, size, size))
        plain = nn.AvgPool2d(window.kernel, window.stride)
        torch.testing.assert_close(adaptive(pixels(size)), plain(pixels(size)), rtol=0, atol=1e-6)
    else:
        with pytest.raises(ValueError, match=f"^pool: {size} x {size} pixels do not split into 6 x 6 equal windows$"):
            Architecture(name="own", input_size=size, layers=(layer, *HEAD))


def test_which_sizes_an_adaptive_pool_of_6_takes() -> None:
    def takes(size: int) -> bool:
        try:
            Architecture(name="own", input_size=size, layers=(AdaptiveAveragePool(name="pool", size=6), *HEAD))
        except ValueError:
            return False
        return True

    assert [size for size in range(1, 26) if takes(size)] == [6, 7, 12, 13, 18, 19, 24, 25]


def test_an_adaptive_pool_of_planes_that_are_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="pool: 12 x 6 pixels do not split"):
        adaptive_window(AdaptiveAveragePool(name="pool", size=6), (3, 12, 6))


def test_shapes_follow_from_the_windows() -> None:
    layers = (
        Conv(name="conv", out_channels=4, kernel=5),
        Tanh(name="tanh"),
        MaxPool(name="maximum", kernel=3, stride=2, padding=(0, 0, 1, 1)),
        AveragePool(name="mean", kernel=2, stride=2),
        AdaptiveAveragePool(name="adaptive", size=1),
        Flatten(name="flatten"),
        Tanh(name="tanh_of_a_row"),
        Linear(name="fc", out_features=2),
    )
    table = Architecture(name="own", input_size=32, layers=layers)
    assert [cost.out_shape for cost in table.costs()] == [
        (4, 28, 28),
        (4, 28, 28),
        (4, 14, 14),
        (4, 7, 7),
        (4, 1, 1),
        (4,),
        (4,),
        (2,),
    ]
    assert table.num_parameters == 4 * 75 + 4 + 4 * 2 + 2
    assert Network(table)(torch.zeros(3, 3, 32, 32)).shape == (3, 2)


def test_padding_is_absent_from_the_text_of_a_pool_without_it() -> None:
    assert MaxPool(name="pool", padding=(0, 0, 0, 0)) == MaxPool(name="pool")
    assert msgspec.json.encode(MaxPool(name="pool")) == b'{"type":"max_pool","name":"pool","kernel":3,"stride":2}'
    mean = AveragePool(name="pool", kernel=3, stride=2, padding=(0, 0, 0, 0))
    assert msgspec.json.encode(mean) == b'{"type":"average_pool","name":"pool","kernel":3,"stride":2}'
    counted = AveragePool(name="pool", kernel=3, stride=2, padding=(1, 1, 1, 1), counts_padding=True)
    assert msgspec.json.decode(msgspec.json.encode(counted), type=AveragePool) == counted
    padded = MaxPool(name="pool", padding=(0, 0, 1, 1))
    assert msgspec.json.decode(msgspec.json.encode(padded), type=MaxPool) == padded


@pytest.mark.parametrize("padding", [(0, 0, 3, 0), (-1, 0, 0, 0), (0, 9, 0, 0)])
def test_padding_that_a_window_may_not_leave_is_refused(padding: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="pool: padding must be 0 or more and less than the kernel, 3"):
        MaxPool(name="pool", padding=padding)
    with pytest.raises(ValueError, match="pool: padding must be 0 or more and less than the kernel, 3"):
        AveragePool(name="pool", kernel=3, stride=2, padding=padding)


def test_pools_of_nothing_and_windows_that_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="pool: kernel and stride must be 1 or more"):
        AveragePool(name="pool", kernel=0, stride=1)
    with pytest.raises(ValueError, match="pool: counts_padding needs padding"):
        AveragePool(name="pool", kernel=3, stride=2, counts_padding=True)
    with pytest.raises(ValueError, match="pool: size must be 1 or more, got 0"):
        AdaptiveAveragePool(name="pool", size=0)
    with pytest.raises(ValueError, match="pool: windows of 2 do not tile 31 x 31 exactly"):
        Architecture(name="own", input_size=31, layers=(AveragePool(name="pool", kernel=2, stride=2), *HEAD))
    with pytest.raises(ValueError, match="pool: windows of 3 do not tile 32 x 32 exactly"):
        Architecture(name="own", input_size=31, layers=(MaxPool(name="pool", padding=(0, 0, 1, 1)), *HEAD))
