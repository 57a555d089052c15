from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alexnet_deploy.core.network import preprocess
from alexnet_deploy.core.preprocessing import ChannelOrder, Preprocessing
from alexnet_deploy.train.augment import color_axes, color_shift, crop_and_mirror, scaled_crop_and_mirror

# Deviations of RGB along its principal axes that the authors' code released, on 0..255.
RELEASED = np.array([19.721, 37.094, 121.780])


def numbered(num_images: int) -> torch.Tensor:
    """Pictures in which every pixel holds its row, its column and the number of its picture."""
    images = np.empty((num_images, 256, 256, 3), np.uint8)
    images[..., 0] = np.arange(256)[:, None]
    images[..., 1] = np.arange(256)
    images[..., 2] = np.arange(num_images)[:, None, None]
    return torch.from_numpy(images)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws_of(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Top, left and mirrored, read off crops of `numbered` pictures."""
    columns = crops[:, 0, :, 1].astype(int)
    return crops[:, 0, 0, 0].astype(int), columns.min(axis=1), columns[:, 0] > columns[:, -1]


# Crops and mirrors


@pytest.mark.parametrize("size", [224, 227, 256, 1])
def test_each_crop_is_a_window_of_its_own_picture_or_that_windows_mirror(size: int) -> None:
    images = numbered(40)
    crops = crop_and_mirror(images, size, generator(1))
    assert crops.dtype == torch.uint8
    assert crops.shape == (40, size, size, 3)
    tops, lefts, mirrored = draws_of(crops.numpy())
    for number, (top, left, is_mirrored) in enumerate(zip(tops, lefts, mirrored, strict=True)):
        window = images.numpy()[number, top : top + size, left : left + size]
        np.testing.assert_array_equal(crops[number].numpy(), window[:, ::-1] if is_mirrored else window)


def test_every_offset_and_both_mirrors_are_drawn_alike_and_independently() -> None:
    num_draws, size, num_offsets = 3000, 227, 30
    draws = generator(2)
    # Copies of one picture that share its memory, a few hundred at a time.
    images = numbered(1).expand(300, -1, -1, -1)
    batches = [crop_and_mirror(images, size, draws)[:, :1].numpy() for _ in range(num_draws // 300)]
    tops, lefts, mirrored = draws_of(np.concatenate(batches))
    for offsets in (tops, lefts):
        counts = np.bincount(offsets + num_offsets * mirrored, minlength=2 * num_offsets)
        assert len(counts) == 2 * num_offsets
        # 50 are expected of each, with a deviation of 7.
        assert counts.min() > 50 - 4.5 * 7
        assert counts.max() < 50 + 4.5 * 7
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 4 / num_draws**0.5


def test_a_generators_seed_decides_the_crops() -> None:
    images = numbered(8)
    first, again, other = (crop_and_mirror(images, 227, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draws = generator(3)
    assert torch.equal(crop_and_mirror(images, 227, draws), first)
    assert not torch.equal(crop_and_mirror(images, 227, draws), first)


# Against plain NumPy


def in_numpy(
    images: np.ndarray, size: int, axes: np.ndarray, deviation: float, preprocessing: Preprocessing, seed: int
) -> np.ndarray:
    """What a batch becomes, picture by picture, in float64: (N, 3, size, size)."""
    draws = generator(seed)
    corners = torch.randint(0, 256 - size + 1, (2, len(images), 1), generator=draws).numpy()
    mirrored = torch.randint(0, 2, (len(images), 1), generator=draws).numpy()
    normals = torch.randn((len(images), 3), generator=draws).numpy().astype(np.float64)
    views = []
    for number, image in enumerate(images):
        top, left = corners[:, number, 0]
        crop = image[top : top + size, left : left + size].astype(np.float64)
        if mirrored[number, 0]:
            crop = crop[:, ::-1]
        for axis, normal in zip(axes.T.astype(np.float64), normals[number], strict=True):
            crop = crop + deviation * normal * axis
        fed = (crop - np.array(preprocessing.mean)) * np.array(preprocessing.scale)
        fed = fed[..., ::-1] if preprocessing.channel_order == "BGR" else fed
        views.append(fed.transpose(2, 0, 1))
    return np.stack(views)


def on_device(
    images: torch.Tensor, size: int, axes: torch.Tensor, deviation: float, preprocessing: Preprocessing, seed: int
) -> torch.Tensor:
    """The same as the training loop does it, for the whole batch."""
    draws = generator(seed)
    crops = crop_and_mirror(images, size, draws).float()
    shift = color_shift(len(crops), axes, deviation, draws).to(images.device)
    return preprocess(crops + shift[:, None, None, :], preprocessing)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [224, 227])
def test_a_batch_becomes_what_plain_numpy_makes_of_it(size: int, order: ChannelOrder) -> None:
    images = np.random.default_rng(7).integers(0, 256, (12, 256, 256, 3), dtype=np.uint8)
    axes = color_axes(np.cov(images.reshape(-1, 3).T.astype(np.float64)) + np.diag(RELEASED**2))
    preprocessing = Preprocessing(
        resize="shorter-side", channel_order=order, mean=(120.0, 110.0, 100.0), scale=(0.01, 0.02, 0.03)
    )
    wanted = in_numpy(images, size, axes.numpy(), 0.1, preprocessing, seed=9)
    found = on_device(torch.from_numpy(images), size, axes, 0.1, preprocessing, seed=9)
    # float32 carries 2^-24 of pixels up to 300.
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=300 * 0.03 * 2**-22)
    # With nothing added and nothing scaled, bit for bit.
    plain = Preprocessing(resize="shorter-side", channel_order=order, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    wanted = in_numpy(images, size, axes.numpy(), 0.0, plain, seed=9)
    np.testing.assert_array_equal(on_device(torch.from_numpy(images), size, axes, 0.0, plain, seed=9).numpy(), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_draws_and_computes_as_the_cpu_does() -> None:
    images = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8))
    axes = color_axes(np.diag(RELEASED**2))
    crops = [crop_and_mirror(images.to(device), 227, generator(3)).cpu() for device in ("cpu", "cuda")]
    assert torch.equal(*crops)
    preprocessing = Preprocessing(
        resize="warp", channel_order="BGR", mean=(120.0, 110.0, 100.0), scale=(0.01, 0.02, 0.03)
    )
    views = [on_device(images.to(device), 227, axes, 0.1, preprocessing, seed=4).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(*views, rtol=0, atol=300 * 0.03 * 2**-22)


# Colour noise


def matrices(scale: float) -> st.SearchStrategy[Any]:
    return arrays(np.float64, (3, 3), elements=st.floats(-scale, scale, allow_subnormal=False))


@settings(max_examples=100, deadline=None)
@given(root=matrices(100.0))
def test_the_axes_are_perpendicular_and_reproduce_the_covariance(root: np.ndarray) -> None:
    covariance = root @ root.T
    axes = color_axes(covariance)
    assert axes.dtype == torch.float32
    exact = axes.numpy().astype(np.float64)
    # float32 carries 2^-24 of the largest product.
    tolerance = 1e-6 * max(float(np.trace(covariance)), 1e-30)
    np.testing.assert_allclose(exact @ exact.T, covariance, rtol=0, atol=tolerance)
    products = exact.T @ exact
    np.testing.assert_allclose(products, np.diag(np.diagonal(products)), rtol=0, atol=tolerance)


def test_axes_are_as_long_as_the_deviations_that_the_authors_released() -> None:
    directions, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    axes = color_axes((directions * RELEASED**2) @ directions.T).numpy()
    np.testing.assert_allclose(np.sort(np.linalg.norm(axes, axis=0)), RELEASED, rtol=1e-5)


@pytest.mark.parametrize("smallest", [0.0, -1e-12])
def test_colours_without_variation_have_axes_of_no_length(smallest: float) -> None:
    axes = color_axes(np.diag([smallest, 100.0, smallest]))
    np.testing.assert_array_equal(np.abs(axes.numpy()).sum(axis=1), [0.0, 10.0, 0.0])
    assert torch.count_nonzero(color_axes(np.zeros((3, 3)))) == 0


def test_shifts_have_the_covariance_of_the_data_times_the_deviation_squared() -> None:
    num_images, deviation = 200_000, 0.1
    directions, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    covariance = (directions * RELEASED**2) @ directions.T
    shifts = color_shift(num_images, color_axes(covariance), deviation, generator(5))
    assert shifts.dtype == torch.float32
    assert shifts.shape == (num_images, 3)
    wanted = deviation**2 * covariance
    variances = np.diagonal(wanted)
    # Four deviations of an estimated covariance of normal numbers, and of an estimated mean.
    tolerance = 4 * np.sqrt((np.outer(variances, variances) + wanted**2) / num_images)
    assert (np.abs(np.cov(shifts.numpy().T.astype(np.float64)) - wanted) < tolerance).all()
    assert (np.abs(shifts.numpy().mean(axis=0)) < 4 * np.sqrt(variances / num_images)).all()


def test_each_picture_has_a_shift_of_its_own_and_a_deviation_of_0_none() -> None:
    axes = color_axes(np.diag(RELEASED**2))
    shifts = color_shift(50, axes, 0.1, generator(6)).numpy()
    assert len(np.unique(shifts, axis=0)) == 50
    np.testing.assert_array_equal(shifts, color_shift(50, axes, 0.1, generator(6)).numpy())
    assert not np.array_equal(shifts, color_shift(50, axes, 0.1, generator(7)).numpy())
    assert np.count_nonzero(color_shift(50, axes, 0.0, generator(6)).numpy()) == 0


# Scaled crops


def read_off(picture: np.ndarray, top: float, left: float, side: float, size: int, mirrored: bool) -> np.ndarray:
    """A square of a picture, places in pixels from its corner, scaled to size x size, bilinearly, pixel by pixel."""
    scaled = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            steps = size - 1 - column if mirrored else column
            y = min(max(top + (row + 0.5) * side / size - 0.5, 0), 255)
            x = min(max(left + (steps + 0.5) * side / size - 0.5, 0), 255)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 255), min(x0 + 1, 255)
            upper = picture[y0, x0] * (1 - (x - x0)) + picture[y0, x1] * (x - x0)
            lower = picture[y1, x0] * (1 - (x - x0)) + picture[y1, x1] * (x - x0)
            scaled[row, column] = upper * (1 - (y - y0)) + lower * (y - y0)
    return scaled


def test_scaled_crops_are_what_plain_arithmetic_reads_off_the_same_draws() -> None:
    num_images, size, least = 6, 40, 0.2
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, 256, 256, 3), dtype=np.uint8)
    crops = scaled_crop_and_mirror(torch.from_numpy(images), size, least, generator(3))
    assert (crops.dtype, crops.shape) == (torch.float32, (num_images, size, size, 3))
    draws = generator(3)
    areas, tops, lefts = torch.rand((3, num_images), generator=draws).double().numpy()
    mirrored = torch.randint(0, 2, (num_images,), generator=draws).numpy() == 1
    assert set(mirrored) == {False, True}
    for number in range(num_images):
        side = 256 * np.sqrt(least + (1 - least) * areas[number])
        top, left = (256 - side) * tops[number], (256 - side) * lefts[number]
        expected = read_off(images[number].astype(float), top, left, side, size, mirrored[number])
        # float32 places a pixel to 1e-5 of it, and neighbours differ by up to 255.
        np.testing.assert_allclose(crops[number].numpy(), expected, atol=0.02)


def test_scaled_crops_cover_areas_and_places_evenly_and_stay_inside() -> None:
    # The picture holds its own rows and columns, so that a crop tells where it was.
    ramps = torch.zeros((1, 256, 256, 3), dtype=torch.uint8)
    ramps[..., 0], ramps[..., 1] = torch.arange(256)[:, None], torch.arange(256)
    crops = scaled_crop_and_mirror(ramps.expand(2000, -1, -1, -1), 9, 0.25, generator(8)).numpy()
    heights = (crops[:, 8, 4, 0] - crops[:, 0, 4, 0]) * 9 / 8
    widths = (crops[:, 4, 8, 1] - crops[:, 4, 0, 1]) * 9 / 8
    np.testing.assert_allclose(np.abs(widths), heights, atol=0.01)
    areas = (heights / 256) ** 2
    assert 0.249 < areas.min() < 0.26
    assert 0.99 < areas.max() < 1.001
    # Of evenly drawn numbers, with four deviations of what is estimated.
    assert abs(areas.mean() - 0.625) < 4 * 0.75 / np.sqrt(12 * 2000)
    assert abs((widths < 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    middles = crops[:, 4, 4, :2] + 0.5
    room = (256 - heights[:, None]) / 2
    shares = (middles - 128)[heights < 200] / room[heights < 200]
    assert np.abs(shares).max() < 1.001
    assert (np.abs(shares.mean(axis=0)) < 4 / np.sqrt(3 * len(shares))).all()
