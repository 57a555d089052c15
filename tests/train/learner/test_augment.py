from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alexnet_deploy.core.model.network import preprocess
from alexnet_deploy.core.model.preprocessing import ChannelOrder, Preprocessing
from alexnet_deploy.train.learner.augment import (
    CropRange,
    _by_index,
    color_axes,
    color_shift,
    crop_and_mirror,
    erase,
    jitter_colors,
    scaled_crop_and_mirror,
    standardised,
    whole,
)

# Standard deviations of RGB along its principal axes, from the authors' released code, on 0..255.
RELEASED = np.array([19.721, 37.094, 121.780])


def numbered(num_images: int) -> torch.Tensor:
    """Images in which every pixel encodes its row, its column and the image number."""
    images = np.empty((num_images, 256, 256, 3), np.uint8)
    images[..., 0] = np.arange(256)[:, None]
    images[..., 1] = np.arange(256)
    images[..., 2] = np.arange(num_images)[:, None, None]
    return torch.from_numpy(images)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws_of(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Top, left and mirrored, read from crops of `numbered` images."""
    columns = crops[:, 0, :, 1].astype(int)
    return crops[:, 0, 0, 0].astype(int), columns.min(axis=1), columns[:, 0] > columns[:, -1]


# Crops and mirrors


@pytest.mark.parametrize("size", [224, 227, 256, 1])
def test_each_crop_is_a_window_of_its_own_image_or_that_windows_mirror(size: int) -> None:
    images = numbered(40)
    crops = crop_and_mirror(images, size, generator(1), whole(40))
    assert crops.dtype == torch.uint8
    assert crops.shape == (40, size, size, 3)
    tops, lefts, mirrored = draws_of(crops.numpy())
    for number, (top, left, is_mirrored) in enumerate(zip(tops, lefts, mirrored, strict=True)):
        window = images.numpy()[number, top : top + size, left : left + size]
        np.testing.assert_array_equal(crops[number].numpy(), window[:, ::-1] if is_mirrored else window)


def test_every_offset_and_both_mirrors_are_drawn_alike_and_independently() -> None:
    num_draws, size, num_offsets = 3000, 227, 30
    draws = generator(2)
    # Copies that share the memory of one image, a few hundred at a time.
    images = numbered(1).expand(300, -1, -1, -1)
    batches = [crop_and_mirror(images, size, draws, whole(300))[:, :1].numpy() for _ in range(num_draws // 300)]
    tops, lefts, mirrored = draws_of(np.concatenate(batches))
    for offsets in (tops, lefts):
        counts = np.bincount(offsets + num_offsets * mirrored, minlength=2 * num_offsets)
        assert len(counts) == 2 * num_offsets
        # 50 of each are expected, with a standard deviation of 7.
        assert counts.min() > 50 - 4.5 * 7
        assert counts.max() < 50 + 4.5 * 7
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 4 / num_draws**0.5


def test_a_generators_seed_decides_the_crops() -> None:
    images = numbered(8)
    first, again, other = (crop_and_mirror(images, 227, generator(seed), whole(8)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draws = generator(3)
    assert torch.equal(crop_and_mirror(images, 227, draws, whole(8)), first)
    assert not torch.equal(crop_and_mirror(images, 227, draws, whole(8)), first)


# Against plain NumPy


def in_numpy(
    images: np.ndarray, size: int, axes: np.ndarray, deviation: float, preprocessing: Preprocessing, seed: int
) -> np.ndarray:
    """Reference augmentation of a batch, image by image, in float64: (N, 3, size, size)."""
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
    """The training loop's augmentation, for the whole batch."""
    draws = generator(seed)
    crops = crop_and_mirror(images, size, draws, whole(len(images))).float()
    shift = color_shift(axes, deviation, draws, whole(len(images))).to(images.device)
    return preprocess(crops + shift[:, None, None, :], preprocessing)


def test_crops_by_index_are_those_by_row() -> None:
    images = torch.randint(0, 256, (9, 256, 256, 3), dtype=torch.uint8, generator=generator(1))
    draws = generator(5)
    corners, mirrored = (torch.randint(0, end, shape, generator=draws) for end, shape in ((30, (2, 9, 1)), (2, (9, 1))))
    crops = crop_and_mirror(images, 227, generator(5), whole(9))
    assert torch.equal(_by_index(images, 227, corners, mirrored), crops)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_standardised_crops_are_preprocessed_ones_in_every_bit(order: ChannelOrder) -> None:
    preprocessing = Preprocessing(
        resize="shorter-side", channel_order=order, mean=(120.3, 110.7, 99.1), scale=(0.021, 0.019, 0.017)
    )
    crops = 255 * torch.rand((3, 67, 67, 3), generator=generator(2))
    shift = 9 * torch.randn((3, 3), generator=generator(3))
    assert torch.equal(standardised(crops, preprocessing), preprocess(crops, preprocessing))
    shifted = preprocess(crops + shift[:, None, None, :], preprocessing)
    assert torch.equal(standardised(crops, preprocessing, shift), shifted)
    assert standardised(crops[:0], preprocessing).shape == (0, 3, 67, 67)


@pytest.mark.parametrize(("mirror", "is_random"), [(False, False), (True, False), (False, True)])
def test_crops_without_mirrors_or_random_places(mirror: bool, is_random: bool) -> None:
    """The numbers that are drawn afterwards are the same as with both."""
    images = torch.randint(0, 256, (12, 256, 256, 3), dtype=torch.uint8, generator=generator(1))
    draws, others = generator(5), generator(5)
    limits = CropRange(min_area=1.0, mirror=mirror, is_random=is_random)
    crops = crop_and_mirror(images, 227, draws, whole(12), limits)
    both = crop_and_mirror(images, 227, others, whole(12))
    assert torch.equal(torch.rand(3, generator=draws), torch.rand(3, generator=others))
    center = images[:, 14:241, 14:241]
    are_center = [torch.equal(crop, each) for crop, each in zip(crops, center, strict=True)]
    are_mirrored = [torch.equal(crop, each.flip(1)) for crop, each in zip(crops, center, strict=True)]
    if is_random:
        assert not any(are_center)
        are_same = [torch.equal(crop, each) for crop, each in zip(crops, both, strict=True)]
        are_flipped = [torch.equal(crop, each.flip(1)) for crop, each in zip(crops, both, strict=True)]
        assert all(same != flipped for same, flipped in zip(are_same, are_flipped, strict=True))
        assert 0 < sum(are_flipped) < 12
    else:
        assert all(one != other for one, other in zip(are_center, are_mirrored, strict=True))
        assert any(are_mirrored) is mirror


def test_scaled_crops_without_mirrors() -> None:
    images = torch.randint(0, 256, (12, 256, 256, 3), dtype=torch.uint8, generator=generator(1))
    plain, both = (
        scaled_crop_and_mirror(images, 64, CropRange(min_area=0.5, mirror=mirror), generator(5), whole(12))
        for mirror in (False, True)
    )
    are_same = [torch.equal(one, other) for one, other in zip(plain, both, strict=True)]
    assert 0 < sum(are_same) < 12


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
    # Without noise and scaling: bit-identical.
    plain = Preprocessing(resize="shorter-side", channel_order=order, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    wanted = in_numpy(images, size, axes.numpy(), 0.0, plain, seed=9)
    np.testing.assert_array_equal(on_device(torch.from_numpy(images), size, axes, 0.0, plain, seed=9).numpy(), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_draws_and_computes_as_the_cpu_does() -> None:
    images = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8))
    axes = color_axes(np.diag(RELEASED**2))
    crops = [crop_and_mirror(images.to(device), 227, generator(3), whole(64)).cpu() for device in ("cpu", "cuda")]
    assert torch.equal(*crops)
    preprocessing = Preprocessing(
        resize="warp", channel_order="BGR", mean=(120.0, 110.0, 100.0), scale=(0.01, 0.02, 0.03)
    )
    views = [on_device(images.to(device), 227, axes, 0.1, preprocessing, seed=4).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(*views, rtol=0, atol=300 * 0.03 * 2**-22)


# Colour noise


def matrices(scale: float) -> st.SearchStrategy[Any]:
    return arrays(np.float64, (3, 3), elements=st.floats(-scale, scale, allow_subnormal=False))


@settings(max_examples=100)
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
    shifts = color_shift(color_axes(covariance), deviation, generator(5), whole(num_images))
    assert shifts.dtype == torch.float32
    assert shifts.shape == (num_images, 3)
    wanted = deviation**2 * covariance
    variances = np.diagonal(wanted)
    # Four standard errors of the covariance and of the mean of normal numbers.
    tolerance = 4 * np.sqrt((np.outer(variances, variances) + wanted**2) / num_images)
    assert (np.abs(np.cov(shifts.numpy().T.astype(np.float64)) - wanted) < tolerance).all()
    assert (np.abs(shifts.numpy().mean(axis=0)) < 4 * np.sqrt(variances / num_images)).all()


def test_each_image_has_a_shift_of_its_own_and_a_deviation_of_0_none() -> None:
    axes = color_axes(np.diag(RELEASED**2))
    shifts = color_shift(axes, 0.1, generator(6), whole(50)).numpy()
    assert len(np.unique(shifts, axis=0)) == 50
    np.testing.assert_array_equal(shifts, color_shift(axes, 0.1, generator(6), whole(50)).numpy())
    assert not np.array_equal(shifts, color_shift(axes, 0.1, generator(7), whole(50)).numpy())
    assert np.count_nonzero(color_shift(axes, 0.0, generator(6), whole(50)).numpy()) == 0


# Resized crops


def reflected(place: float) -> float:
    """A position on a line of pixel centres 0 to 255, reflected at the outer edges of the first and last pixel."""
    while not -0.5 <= place <= 255.5:
        place = -1 - place if place < -0.5 else 511 - place
    return min(max(place, 0.0), 255.0)


def read_off(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The bilinear colour at a position."""
    y, x = reflected(y), reflected(x)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, 255), min(x0 + 1, 255)
    upper = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
    lower = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
    return upper * (1 - (y - y0)) + lower * (y - y0)


@pytest.mark.parametrize(
    "limits",
    [
        CropRange(min_area=0.2),
        CropRange(min_area=0.3, max_aspect=3.0),
        CropRange(min_area=0.5, max_aspect=1.5, max_rotation=40.0),
        CropRange(min_area=1.0, max_rotation=180.0),
    ],
)
def test_scaled_crops_are_what_plain_arithmetic_reads_off_the_same_draws(limits: CropRange) -> None:
    num_images, size = 6, 40
    images = np.random.default_rng(0).integers(0, 256, (num_images, 256, 256, 3), dtype=np.uint8)
    crops = scaled_crop_and_mirror(torch.from_numpy(images), size, limits, generator(3), whole(num_images))
    assert (crops.dtype, crops.shape) == (torch.float32, (num_images, size, size, 3))
    draws = generator(3)
    drawn = torch.rand((5, num_images), generator=draws).double().numpy()
    mirrored = torch.randint(0, 2, (num_images,), generator=draws).numpy() == 1
    assert set(mirrored) == {False, True}
    for number, (area, aspect, angle, top, left) in enumerate(drawn.T):
        side = 256 * np.sqrt(limits.min_area + (1 - limits.min_area) * area)
        ratio = limits.max_aspect ** (2 * aspect - 1)
        height, width = min(256.0, side / np.sqrt(ratio)), min(256.0, side * np.sqrt(ratio))
        middle_y, middle_x = (256 - height) * top + height / 2, (256 - width) * left + width / 2
        turn = np.radians(limits.max_rotation * (2 * angle - 1))
        expected = np.empty((size, size, 3))
        for row in range(size):
            for column in range(size):
                up = ((row + 0.5) / size - 0.5) * height
                along = ((column + 0.5) / size - 0.5) * width * (-1 if mirrored[number] else 1)
                y = middle_y + up * np.cos(turn) + along * np.sin(turn)
                x = middle_x + along * np.cos(turn) - up * np.sin(turn)
                expected[row, column] = read_off(images[number].astype(float), y - 0.5, x - 0.5)
        # float32 positions are exact to 1e-5 of a pixel, and neighbours differ by up to 255.
        np.testing.assert_allclose(crops[number].numpy(), expected, atol=0.03)


def ramps(num_images: int, size: int, limits: CropRange) -> np.ndarray:
    """Crops of an image that encodes rows and columns, so that each crop shows its position."""
    places = torch.zeros((1, 256, 256, 3), dtype=torch.uint8)
    places[..., 0], places[..., 1] = torch.arange(256)[:, None], torch.arange(256)
    images = places.expand(num_images, -1, -1, -1)
    return scaled_crop_and_mirror(images, size, limits, generator(8), whole(num_images)).numpy()


def test_scaled_crops_cover_areas_and_places_evenly_and_stay_inside() -> None:
    crops = ramps(2000, 9, CropRange(min_area=0.25))
    heights = (crops[:, 8, 4, 0] - crops[:, 0, 4, 0]) * 9 / 8
    widths = (crops[:, 4, 8, 1] - crops[:, 4, 0, 1]) * 9 / 8
    np.testing.assert_allclose(np.abs(widths), heights, atol=0.01)
    areas = (heights / 256) ** 2
    assert 0.249 < areas.min() < 0.26
    assert 0.99 < areas.max() < 1.001
    # Uniform random numbers, within four standard errors.
    assert abs(areas.mean() - 0.625) < 4 * 0.75 / np.sqrt(12 * 2000)
    assert abs((widths < 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    middles = crops[:, 4, 4, :2] + 0.5
    room = (256 - heights[:, None]) / 2
    shares = (middles - 128)[heights < 200] / room[heights < 200]
    assert np.abs(shares).max() < 1.001
    assert (np.abs(shares.mean(axis=0)) < 4 / np.sqrt(3 * len(shares))).all()


def test_scaled_crops_are_as_often_wide_as_high_and_turned_either_way() -> None:
    crops = ramps(2000, 9, CropRange(min_area=0.05, max_aspect=2.0, max_rotation=30.0))
    # About the centre, which is inside for every rotation; and with sides that are not cut to the image's.
    along, up = 4.5 * (crops[:, 4, 5, :2] - crops[:, 4, 3, :2]), 4.5 * (crops[:, 5, 4, :2] - crops[:, 3, 4, :2])
    uncut = (np.linalg.norm(along, axis=1) < 255) & (np.linalg.norm(up, axis=1) < 255)
    assert uncut.sum() > 1000
    along, up = along[uncut], up[uncut]
    aspects = np.log2(np.linalg.norm(along, axis=1) / np.linalg.norm(up, axis=1))
    assert 0.9 < aspects.max() < 1.001
    assert -1.001 < aspects.min() < -0.9
    assert abs(aspects.mean()) < 4 / np.sqrt(3 * len(aspects))
    # Rotated, not sheared.
    np.testing.assert_allclose((along * up).sum(axis=1) / 256**2, 0.0, atol=1e-3)
    turns = np.degrees(np.arctan2(-up[:, 1], up[:, 0]))
    assert 27 < turns.max() < 30.01
    assert -30.01 < turns.min() < -27
    assert abs(turns.mean()) < 4 * 30 / np.sqrt(3 * len(turns))


# Colour jitter


def test_colours_change_as_plain_arithmetic_changes_them() -> None:
    num_images, greatest, mean = 8, 0.4, (120.0, 110.0, 100.0)
    pixels = np.random.default_rng(1).uniform(0, 255, (num_images, 5, 5, 3)).astype(np.float32)
    found = jitter_colors(torch.from_numpy(pixels), mean, greatest, generator(2), whole(num_images))
    factors = 1 + greatest * (2 * torch.rand((3, num_images), generator=generator(2)).double().numpy() - 1)
    assert factors.min() < 0.8
    assert factors.max() > 1.2
    for image, (saturation, contrast, brightness), changed in zip(pixels, factors.T, found.numpy(), strict=True):
        grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
        saturated = grey + saturation * (image - grey)
        expected = brightness * (np.array(mean) + contrast * (saturated - np.array(mean)))
        np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-3)
    same = jitter_colors(torch.from_numpy(pixels), mean, 0.0, generator(2), whole(num_images))
    np.testing.assert_allclose(same.numpy(), pixels, rtol=0, atol=1e-3)


# Random erasing


def test_a_share_of_the_images_has_a_rectangle_erased_of_any_size_shape_and_place_allowed() -> None:
    num_images, size = 2000, 120
    views = torch.ones(1).expand(num_images, 3, size, size)
    erased = erase(views, 0.25, generator(3), whole(num_images)).numpy() == 0
    np.testing.assert_array_equal(erased[:, 0], erased[:, 1])
    np.testing.assert_array_equal(erased[:, 0], erased[:, 2])
    rows, columns = erased[:, 0].any(axis=2), erased[:, 0].any(axis=1)
    np.testing.assert_array_equal(erased[:, 0], rows[:, :, None] & columns[:, None, :])
    chosen = rows.any(axis=1)
    assert abs(chosen.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / num_images)
    heights, widths = rows[chosen].sum(axis=1), columns[chosen].sum(axis=1)
    for marked, lengths in ((rows[chosen], heights), (columns[chosen], widths)):
        # One rectangle, and every position is reached.
        assert (np.abs(np.diff(marked.astype(int), axis=1)).sum(axis=1) <= 2).all()
        assert (marked.argmax(axis=1) + lengths <= size).all()
        assert marked.any(axis=0).all()
    areas, aspects = heights * widths / size**2, np.log(widths / heights) / np.log(3)
    # Sides are rounded to whole pixels; the shortest has ten.
    assert 0.015 < areas.min() < 0.025
    assert 0.24 < areas.max() < 0.26
    assert abs(areas.mean() - 0.135) < 0.01
    assert 0.9 < aspects.max() < 1.2
    assert -1.2 < aspects.min() < -0.9
    assert abs(aspects.mean()) < 0.1


def test_nothing_is_erased_at_a_share_of_0_and_something_in_each_image_at_1() -> None:
    views = torch.ones((50, 3, 30, 30))
    assert torch.equal(erase(views, 0.0, generator(1), whole(50)), views)
    assert (erase(views, 1.0, generator(1), whole(50)) == 0).flatten(1).any(1).all()
    assert torch.equal(views, torch.ones((50, 3, 30, 30)))
