"""A server proves each bundle that it opens; here the proof is short."""

import pytest

from alexnet_deploy.core.bundle.store import Bundle


@pytest.fixture(scope="session")
def bundle(short_bundle: Bundle) -> Bundle:
    return short_bundle
