from pathlib import Path

import pytest
from networks import narrowed, separating_weights, shipped

from alexnet_deploy.core.bundle import Bundle
from alexnet_deploy.core.drawing import DRAWN_CLASSES, draw_picture
from alexnet_deploy.core.family import ARCHITECTURES
from alexnet_deploy.core.weights import LoadedWeights, Weights


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The authors' own structure, narrow: LRN within columns, a spatial norm, uneven padding."""
    return separating_weights(narrowed(ARCHITECTURES["original"]))


@pytest.fixture(scope="session")
def shipment(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    return shipped(weights, tmp_path_factory.mktemp("shipment"))


@pytest.fixture(scope="session")
def loaded(shipment: tuple[LoadedWeights, Bundle]) -> LoadedWeights:
    return shipment[0]


@pytest.fixture(scope="session")
def bundle(shipment: tuple[LoadedWeights, Bundle]) -> Bundle:
    """A published bundle; tests that change one make a copy."""
    return shipment[1]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn pictures, a.jpg to l.jpg."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        thing = DRAWN_CLASSES[number % len(DRAWN_CLASSES)]
        draw_picture(thing, 500 + number).save(folder / f"{'abcdefghijkl'[number]}.jpg", quality=90)
    return folder
