import numpy as np
import pytest

from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_image, golden_images
from alexnet_deploy.core.model.views import View, views_by_name


@pytest.mark.parametrize(("size", "far", "middle"), [(227, 29, 14), (224, 32, 16)])
def test_ten_are_four_corners_and_the_centre_then_their_mirrors(size: int, far: int, middle: int) -> None:
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    expected = [View(top=top, left=left, mirrored=mirrored) for mirrored in (False, True) for top, left in corners]
    assert list(views_by_name("ten", size)) == expected


def test_center_is_the_fifth_of_the_ten() -> None:
    assert views_by_name("center", 227) == (views_by_name("ten", 227)[4],)


def test_a_seed_draws_the_same_image_and_another_seed_another() -> None:
    first, again, other = (np.asarray(draw_image("mountain bike", seed)) for seed in (1, 1, 2))
    assert first.shape == (256, 256, 3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


@pytest.mark.parametrize("thing", DRAWN_CLASSES)
def test_things_differ_from_each_other_on_the_same_seed(thing: str) -> None:
    image = np.asarray(draw_image(thing, 3)).astype(int)
    for other in set(DRAWN_CLASSES) - {thing}:
        assert np.abs(image - np.asarray(draw_image(other, 3))).mean() > 5


def test_golden_images_drive_every_channel_over_its_whole_range() -> None:
    images = golden_images()
    assert images.shape == (8, 256, 256, 3)
    assert images.dtype == np.uint8
    for channel in range(3):
        assert np.bincount(images[..., channel].ravel(), minlength=256).min() > 0
    np.testing.assert_array_equal(images, golden_images())
