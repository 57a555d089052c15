"""The bundles of these tests: the command line's subject is not their proof, so it is short."""

import pytest

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.model.weights import LoadedWeights


@pytest.fixture(scope="session")
def bundle(short_bundle: Bundle) -> Bundle:
    return short_bundle


@pytest.fixture(scope="session")
def int8_shipment(short_int8_shipment: tuple[LoadedWeights, Bundle]) -> tuple[LoadedWeights, Bundle]:
    return short_int8_shipment
